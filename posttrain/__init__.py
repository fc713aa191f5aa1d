"""Diagnose a pretrained policy against its dataset, then choose how RL keeps them."""

__version__ = "0.1.0"
