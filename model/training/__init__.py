"""Packs trained and scored: all members at once, in lockstep or task by task, and what that costs."""
