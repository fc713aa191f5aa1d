"""Offline-to-online reinforcement learning of control policies, diagnosed by regime."""
