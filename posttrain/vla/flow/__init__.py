"""Flow-matching policies: PI0 of transformers, cloned, evaluated and fine-tuned with RL."""
