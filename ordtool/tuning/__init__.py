"""Tuning of large models by small side networks."""
