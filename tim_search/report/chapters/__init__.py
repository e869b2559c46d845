"""What the chapters of the report hold, as plain values: a module a chapter."""
