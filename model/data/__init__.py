"""A cohort as tensors: inputs fitted on training rows, one fold at a time, and where random numbers come from."""
