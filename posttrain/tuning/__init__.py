"""A plan at work in TRL's trainers: what language models and robot policies have in common."""
