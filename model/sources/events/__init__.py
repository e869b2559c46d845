"""Cohorts from event tables in the MEDS form: shards, labels, features before a moment of prediction."""
