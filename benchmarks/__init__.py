"""Measurements, never run as tests; figures with command, machine and date are in benchmarks/RESULTS.md."""
