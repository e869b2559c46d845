"""Scores of all members of a pack at once: metrics and clustering."""
