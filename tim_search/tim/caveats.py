"""What the reader of a TIM result must know before using it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tim_search.ledger.table import ScoreTable
from tim_search.tim.estimators import Array
from tim_search.tim.row import Method, Outline
from tim_search.types import some


def caveats(
    table: ScoreTable,
    sources: Sequence[Outline],
    methods: Sequence[Method],
    size: int | None,
    estimate: Array,
    p_value: Array,
    interactions: bool,
) -> list[str]:
    """Warnings about a result whose rows have these methods; arrays (M, M) as in `TimResult`."""
    m, names = len(table.tasks), table.tasks
    off = ~np.eye(m, dtype=bool)
    notes = []
    if "restricted" in methods:
        notes.append(
            f"Only subsets of at most {size} tasks enter: this is not the full TIM score, which averages over all "
            "subsets, and the two can differ in size and sign."
        )
    missing = int(np.isnan(estimate[off]).sum())
    if missing:
        notes.append(
            f"{missing} of {m * (m - 1)} cells cannot be estimated: subsets with or without the task are missing."
        )
    sampled = [i for i, method in enumerate(methods) if method not in ("exact", "restricted")]
    for method in dict.fromkeys(methods):
        whom = "" if len(set(methods)) == 1 else f"{_rows(names, methods, method)}: "
        notes += [whom + note for note in _block_notes(table, method)]
    constant = [names[i] for i, source in enumerate(sources) if source.constant]
    if constant:
        notes.append(f"All scores are equal for {some(constant)}: check that the metric can tell subsets apart.")
    notes += _failure_notes(table)
    return notes + _sample_notes(table, sources, sampled, size, estimate, p_value, interactions) if sampled else notes


def mixed_note(names: Sequence[str], methods: Sequence[Method]) -> str:
    """Which rows are exact and which are not, where failed trainings left only some of them whole."""
    other = next(method for method in methods if method != "exact")
    return (
        f"{_rows(names, methods, 'exact')}: exact. {_rows(names, methods, other)}: no block has all subsets, because "
        "trainings failed; these rows are sampled, from the subsets that did not fail."
    )


def _rows(names: Sequence[str], methods: Sequence[Method], method: Method) -> str:
    of_method = [name for name, own in zip(names, methods, strict=True) if own == method]
    return f"{'Row' if len(of_method) == 1 else 'Rows'} of {some(of_method)}"


def _sample_notes(
    table: ScoreTable,
    sources: Sequence[Outline],
    sampled: Sequence[int],
    size: int | None,
    estimate: Array,
    p_value: Array,
    interactions: bool,
) -> list[str]:
    """Warnings about the rows at the places `sampled`."""
    m, names = len(table.tasks), table.tasks
    off = ~np.eye(m, dtype=bool)
    notes = []
    untested = [names[i] for i in sampled if np.isnan(p_value[i][off[i]]).all() and np.isfinite(estimate[i]).any()]
    if size is not None:
        notes.append(
            f"Scores in subsets of at most {size} tasks rest on the mixed model alone: no tests and no discoveries."
        )
    elif untested:
        whom = f"all {m} tasks" if len(untested) == m > 6 else some(untested)
        notes.append(
            f"Fewer subsets than M + 4 = {m + 4} scored {whom}: no tests for these sources, hence no discoveries, and "
            "no least squares. A subset of a sample scores half of the tasks on average."
        )
    fixed = [
        f"{names[j]} (for {names[i]})"
        for i in sampled
        if sources[i].n
        for j, count in zip((j for j in range(m) if j != i), sources[i].n_with.tolist(), strict=True)
        if count in (0, sources[i].n)
    ]
    if fixed:
        notes.append(
            f"In all subsets or in none: {some(fixed)}. The other scores of these sources hold under that condition."
        )
    sizes = table.membership.sum(axis=1)
    n = len(sizes)
    if n and abs(sizes.mean() - m / 2) > 4 * np.sqrt(m / 4 / n):
        notes.append(
            f"The subsets are not a uniform sample: {sizes.mean():.1f} tasks on average where uniform sampling has "
            f"{m / 2:.1f}. The estimate leans on its model."
        )
    if interactions:
        few = f" with {n} subsets, {m * m} or more are advisable" if n < m * m else ""
        notes.append(f"Second-order scores are exploratory{few}.")
    return notes


def error_note(parts: Mapping[str, Array], twice: float) -> list[str]:
    """Which part of the error is the largest, and what shortens the intervals most; nothing where one part is known.

    `parts` are the standard errors (M, M) by sampling, seed and patients; NaN where unknown. `twice`: see
    `row.counted_twice`.
    """
    squares = {name: _mean_square(part) for name, part in parts.items()}
    shares_of = {
        name: value for name, value in squares.items() if np.isfinite(value) and (name != "sampling" or value > 0)
    }
    if {"seed", "patients"} <= shares_of.keys():
        # Blocks on different folds differ in their patients too: what is left is the seeds'.
        shares_of["seed"] = max(shares_of["seed"] - twice * shares_of["patients"], 0.0)
    total = sum(shares_of.values())
    if len(shares_of) < 2 or not total:
        return []
    words = {
        "sampling": "the choice of subsets and noise from run to run",
        "seed": "seeds",
        "patients": "the patients evaluated",
    }
    if twice and "patients" not in shares_of:
        words["seed"] = "seeds and patients, which differ between the blocks"
    buy = {
        "sampling": "more subsets",
        "seed": "more seeds (blocks)",
        "patients": "more patients (further folds, or a larger cohort)",
    }
    order = sorted(shares_of, key=lambda name: -shares_of[name])
    shares = ", ".join(f"{words[name]} {shares_of[name] / total:.0%}" for name in order)
    shorter = 1 - np.sqrt(1 - shares_of[order[0]] / total / 2)
    return [
        f"Where the error comes from (share of the variance, mean over all cells): {shares}. Buy {buy[order[0]]} next: "
        f"twice as many would shorten the intervals by about {shorter:.0%}."
    ]


def control_note(tasks: Sequence[str], control: str, estimate: Array, half: Array) -> list[str]:
    """How far the column of the negative control spreads; `half` (M, M) are the half-widths of the intervals."""
    c = tasks.index(control)
    rows = [i for i in range(len(tasks)) if i != c and np.isfinite(estimate[i, c])]
    if not rows:
        return [f"Negative control {control}: its column cannot be estimated yet."]
    null = estimate[rows, c]
    others = np.delete(np.delete(estimate, c, axis=0), c, axis=1)
    real = others[~np.eye(len(others), dtype=bool)]
    real = real[np.isfinite(real)]
    beyond = int((abs(null) > half[rows, c]).sum())
    against = f", those of the other tasks by {real.std():.2g}" if len(real) > 1 else ""
    return [
        f"Negative control {control}, which can help nobody: its scores spread by {null.std():.2g} around "
        f"{null.mean():+.2g} (largest {abs(null).max():.2g}){against}; {beyond} of its {len(null)} intervals "
        "exclude 0. Effects no larger than that are no findings; a mean below 0 is what any further task costs."
    ]


def _mean_square(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float((finite**2).mean()) if len(finite) else float("nan")


def _block_notes(table: ScoreTable, method: Method) -> list[str]:
    """Which parts of the error the blocks cannot show."""
    seeds, folds = {seed for seed, _ in table.blocks}, {fold for _, fold in table.blocks}
    sliced = len(table.blocks) > 1 and bool((table.trained.sum(axis=1) == 1).all())
    patients = table.replicates is not None
    enumerated = method in ("exact", "restricted")
    if len(table.blocks) > 1:
        notes = []
        if sliced and not enumerated:
            notes.append(
                f"Each of the {len(table.trained)} subsets was trained in one of {len(table.blocks)} blocks: what the "
                "runs of a block share is estimated by the mixed model, one variance for all tasks of a source."
            )
        if len(seeds) < len(table.blocks):
            notes.append(
                f"{len(table.blocks)} blocks share {len(seeds)} seed(s): standard errors hold too little of the luck "
                "of the seed. Give every block a seed of its own."
            )
        if len(folds) < len(table.blocks) and not patients:
            notes.append(
                f"{len(table.blocks)} blocks share {len(folds)} fold(s) and have no bootstrap replicates: standard "
                "errors hold too little of the sampling of patients."
            )
        return notes
    if not table.blocks:
        return []
    if enumerated and not patients:
        return ["Every subset was trained once: there is no standard error. Train several blocks of (seed, fold)."]
    parts = [] if enumerated else ["the drawing of subsets", "noise from run to run"]
    parts += ["the patients evaluated"] if patients else []
    return [
        f"One block of (seed, fold): standard errors hold {', '.join(parts)}, but not what all runs of a seed share. "
        "Train several blocks."
    ]


def _failure_notes(table: ScoreTable) -> list[str]:
    """How many scores failed, and whether larger subsets fail more often."""
    size = table.membership.sum(axis=1)
    counts = [np.isfinite(table.scores[rows, b]).sum() for b, rows in enumerate(table.trained.T)]
    if sum(counts) == (table.trained * size[:, None]).sum():
        return []
    due = table.trained[:, :, None] & table.membership[:, None, :]
    lost = due & np.isnan(table.scores)
    if not lost.any():
        return []
    notes = [f"{int(lost.sum())} of {int(due.sum())} scores failed; they are left out, not imputed."]
    unit = due.any(axis=2)
    share = (lost.sum(axis=2) / np.maximum(due.sum(axis=2), 1))[unit]
    sizes = np.broadcast_to(table.membership.sum(axis=1)[:, None], unit.shape)[unit].astype(float)
    if len(share) > 2 and np.ptp(share) > 0 and np.ptp(sizes) > 0:
        correlation = float(np.corrcoef(share, sizes)[0, 1])
        if abs(correlation) * np.sqrt(len(share) - 1) > 3:
            kind = "Larger" if correlation > 0 else "Smaller"
            notes.append(
                f"{kind} subsets fail more often (correlation of failures with |T| {correlation:+.2f}): failures "
                "select which subsets are scored. Plain means and least squares are biased; BLUP is less so."
            )
    return notes
