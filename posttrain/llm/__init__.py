"""SFT, diagnosis and RL of language models on transformers and TRL."""
