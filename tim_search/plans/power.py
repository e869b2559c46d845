"""What a sampled search will be able to tell, before it is paid for: from a pilot's scores and the design itself.

The error of a TIM score depends on which subsets are trained and on a few variances: of the noise of a run, of
interactions, of what the runs of a block share, of the patients evaluated. A pilot, or any earlier search in the same
context, tells the variances; the design says what they come to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import Listed
from tim_search.tim import estimators
from tim_search.tim import scores as tim
from tim_search.tim.coded import coded_scores, is_sliced
from tim_search.tim.estimators import Array, CodedScores, Variances
from tim_search.tim.row import counted_twice, source_of

#: A score of this many standard errors is told from 0 (95 % interval) in four of five searches.
DETECTED = float(ndtri(0.975) + ndtri(0.8))
#: Subsets that a pilot needs beyond twice the columns of least squares, which half of the subsets must outnumber.
SPARE = 16


@dataclass(frozen=True)
class Power:
    """The smallest TIM scores that a design can tell from zero.

    Attributes:
        smallest: by source, in its metric; None where the pilot says too little.
        pilot_units: trainings it rests on.
        notes: what is not in these figures, in words.
    """

    smallest: dict[str, float | None]
    pilot_units: int
    notes: tuple[str, ...]


def pilot_size(n_tasks: int, n_blocks: int) -> int:
    """Subsets of a sampled design that make a pilot: enough for least squares in every source."""
    return 2 * (n_tasks + n_blocks) + SPARE


def power(pilot: ScoreTable, design: Listed, blocks: Sequence[tuple[int, int]], control: str | None = None) -> Power:
    """The smallest score of each source that a design will tell from zero in four of five searches.

    Args:
        pilot: scores of the same context: any subsets, any seeds and folds, replicates where there are any.
        design: what is to be trained.
        blocks: the (seed, fold) pairs of the search.
        control: the negative control, which gets no figure.
    """
    names = [name for name in pilot.tasks if name != control]
    units = int(pilot.trained.sum())
    sources = [source_of(pilot, i) for i in range(len(pilot.tasks))]
    sliced = is_sliced(sources)
    games = [coded_scores(source, sliced) for source in sources]
    smallest: dict[str, float | None] = dict.fromkeys(names)
    if not any(game is not None for game in games):
        return Power(smallest, units, ())
    variances = estimators.fit_variances([game for game in games if game])
    seen = tim.from_table(pilot, "blup")
    twice = counted_twice([fold for _, fold in blocks])
    folds = [len({fold for _, fold in some}) for some in (pilot.blocks, blocks)]
    for i, (name, source, game) in enumerate(zip(pilot.tasks, sources, games, strict=True)):
        if name == control or game is None or len(game.scores) < game.codes.shape[1] + game.nuisance.shape[1] + 4:
            continue
        # Scores that are means over more blocks have less noise, and everything else is larger relative to it.
        counts = np.isfinite(source.scores).sum(axis=1).mean()
        ratio = (1 if design.sliced else len(blocks)) / float(counts)
        noise = estimators.mixed_model(game, variances).noise / ratio
        scaled = Variances(*(ratio * value for value in variances))
        planned = _planned(design, pilot.tasks, i, len(blocks), sliced)
        sampling, both = (
            _middle(estimators.planned_error(planned, some, noise)) ** 2
            for some in (scaled._replace(block=0.0), scaled)
        )
        shared = both - sampling if sliced else _middle(seen.se_seed[i]) ** 2 * len(pilot.blocks) / len(blocks)
        patients = _middle(seen.se_patients[i]) ** 2 * folds[0] / folds[1]
        parts = np.nan_to_num([sampling, shared, patients], nan=0.0)
        # As in a result: blocks on different folds differ in their patients too.
        total = parts[0] + max(parts[1], twice * parts[2]) + (1 - twice) * parts[2]
        if np.isfinite(sampling) and total > 0:
            smallest[name] = float(DETECTED * np.sqrt(total))
    notes = []
    if len({seed for seed, _ in pilot.blocks}) < 2:
        notes.append("The pilot has one seed: what all runs of a seed share is not in these figures.")
    if pilot.replicates is None and len({fold for _, fold in pilot.blocks}) < 2:
        notes.append("The pilot has one fold and no replicates: the patients' part is not in these figures.")
    return Power(smallest, units, tuple(notes))


def _planned(design: Listed, tasks: Sequence[str], i: int, n_blocks: int, with_blocks: bool) -> CodedScores:
    """The game of one source that a design will make, without scores."""
    members = np.array([[name in subset for name in tasks] for subset in map(set, design.subsets)])
    rows = np.flatnonzero(members[:, i])
    codes = np.where(np.delete(members[rows], i, axis=1), 1.0, -1.0)
    shares = np.full((len(rows), n_blocks), 1 / n_blocks)
    if design.sliced:
        shares = np.eye(n_blocks)[design.slices(n_blocks)[rows]]
    basis, values, _ = np.linalg.svd(shares, full_matrices=False)
    return CodedScores(
        codes, basis[:, values > 1e-9 * values[0]], np.zeros(len(rows)), shares[:, : n_blocks * with_blocks]
    )


def _middle(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
