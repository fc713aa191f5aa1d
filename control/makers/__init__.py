"""Offline data of known quality, made here: no network, seconds instead of days."""
