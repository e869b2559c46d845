"""What to train next: plans, asked and replayed on the table of scores."""
