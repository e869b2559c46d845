"""Settings chosen by cross-validation: for a whole search, or for every subset of it."""
