"""Where cohorts come from: built in, synthetic, a table of one's own, HAIM-MIMIC-MM."""
