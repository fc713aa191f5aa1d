"""Environments that a vision-language-action policy can act in, stepped many at a time."""
