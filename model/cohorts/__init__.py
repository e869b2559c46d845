"""A cohort: its value, its split, the folder it is kept in, and what may be wrong with it."""
