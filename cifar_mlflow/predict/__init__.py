"""Classify the user's own images."""
