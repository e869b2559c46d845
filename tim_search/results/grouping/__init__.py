"""Which few models to deploy: at most k subsets such that every task is served by one of them, with the largest gain.

A model is a subset of tasks trained together; it *serves* some of its tasks, the others only help in its training. The
gain of a task is its score in the model that serves it, less its score when trained alone (Standley and others, 2020,
choose networks for a budget in the same sense). Scores are those of the search, and where a subset was not trained in
every block, the surrogate's prediction, flagged as such: `unmeasured` says what to train before believing the choice.

Two objectives: "total" maximises the sum of the gains; "worst" maximises the smallest gain, and among the choices that
reach it the sum. Both are solved to proven optimality over the candidates, by mixed-integer programming.
docs/grouping.md explains the programmes and the numbers.
"""

from __future__ import annotations

from tim_search.results.grouping.candidates import GAINS, Candidates, Gain
from tim_search.results.grouping.choice import Certainty, Choice, Grouping, Model, Served
from tim_search.results.grouping.choosing import DRAWS, group
from tim_search.results.grouping.solver import OBJECTIVES, Objective, solve
from tim_search.results.grouping.words import record

__all__ = [
    "DRAWS",
    "GAINS",
    "OBJECTIVES",
    "Candidates",
    "Certainty",
    "Choice",
    "Gain",
    "Grouping",
    "Model",
    "Objective",
    "Served",
    "group",
    "record",
    "solve",
]
