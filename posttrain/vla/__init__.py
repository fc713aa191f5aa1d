"""Vision-language-action policies: cloned from demonstrations, diagnosed, fine-tuned with RL."""
