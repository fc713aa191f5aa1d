"""Offline datasets: read, judged, normalised and opened by one name."""
