"""The search file: read, checked, and resolved to all that a search needs."""
