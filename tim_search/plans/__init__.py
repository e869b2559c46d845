"""What to train next: plans, which are asked again on the table of scores after every round.

`contract` says what a plan answers; `static`, `greedy`, `surrogate` and `sequential` are the plans; `from_design` makes
them from what a search file says.
"""
