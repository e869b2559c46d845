"""How good are the TIM estimators? Error, coverage, false discoveries, bias and time on games with known answers.

    OMP_NUM_THREADS=1 python -m benchmarks.estimators [--quick] [--json FILE]

All errors are in units of the standard deviation of the exact off-diagonal TIM scores, as is the noise of a run (0.3
unless stated, 30 % of its variance shared by the tasks of the run). Games are those of synthetic_games.py. Every
figure is a function of the seeds written here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tim_search import designs
from tim_search.tim import scores as tim
from tim_search.tim.row import Method

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.support import synthetic_games as games

Array = NDArray[np.float64]
Row = dict[str, Any]

#: RMSE of hybrid design and BLUP that a first implementation reached on games of these families, noise 0.3.
REFERENCE: dict[tuple[int, int], float] = {
    (12, 100): 0.174,
    (12, 200): 0.081,
    (12, 400): 0.050,
    (20, 100): 0.309,
    (20, 200): 0.167,
    (20, 400): 0.083,
    (44, 100): 0.490,
    (44, 200): 0.375,
    (44, 400): 0.233,
}
Design: TypeAlias = Literal["hybrid", "iid"]

#: The estimators and designs of the main table.
COMPARED: tuple[tuple[Method, Design], ...] = (
    ("blup", "hybrid"),
    ("ols", "hybrid"),
    ("blup", "iid"),
    ("msr", "iid"),
)

SEARCH_OPTIONS = ("n_blocks", "noise", "seed_effect", "patient_effect", "folds", "sliced")
#: Searches whose intervals are held against the truth: blocks, noise, what the runs of a block share.
SEARCHES: tuple[Row, ...] = (
    {"n_blocks": 5, "noise": 0.3},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.1},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.5},
    {"n_blocks": 5, "noise": 2.0, "seed_effect": 0.3},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3, "folds": 1},
    {"n_blocks": 1, "noise": 0.3, "patient_effect": 0.3},
    {"n_blocks": 2, "noise": 0.3, "seed_effect": 0.2},
    {"n_blocks": 10, "noise": 0.3, "seed_effect": 0.2},
    {"n_blocks": 5, "noise": 0.3, "sliced": True},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.1, "sliced": True},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.5, "sliced": True},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 1.0, "sliced": True},
    {"n_blocks": 2, "noise": 0.3, "seed_effect": 0.5, "sliced": True},
    {"n_blocks": 10, "noise": 0.3, "seed_effect": 0.5, "sliced": True},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3, "sliced": True},
    {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3, "folds": 1, "sliced": True},
)


@cache
def game(kind: str, n_tasks: int, seed: int) -> Any:
    """One synthetic game; building one of 20 tasks takes a second or two."""
    makers: dict[str, Callable[[], Any]] = {
        "saturating": lambda: games.saturating(n_tasks, seed),
        "third order": lambda: games.saturating(n_tasks, seed, third_order=0.5),
        "extremes": lambda: games.extremes(n_tasks, seed),
        "quadratic": lambda: games.quadratic(n_tasks, seed),
        "additive": lambda: games.quadratic(n_tasks, seed, second_order=0.0),
    }
    return makers[kind]()


def main_games(n_tasks: int, count: int) -> list[Any]:
    """The games of the main table: saturating where they can be enumerated, quadratic beyond."""
    return [game("saturating" if n_tasks <= 20 else "quadratic", n_tasks, seed) for seed in range(count)]


def sample(played: Any, budget: int, noise: float, seed: int, design: Design) -> tuple[Any, Array]:
    """Membership and noisy scores of one search."""
    rng = np.random.default_rng([played.n_tasks, budget, seed, int(noise * 10), 7])
    if design == "hybrid":
        membership = designs.hybrid(played.n_tasks, budget, seed)
    else:
        membership = games.iid(played.n_tasks, budget, rng)
    return membership, played.run(membership, noise, rng)


def error(
    n_tasks: int,
    budget: int,
    method: Method = "blup",
    design: Design = "hybrid",
    *,
    n_games: int = 2,
    n_seeds: int = 2,
    noise: float = 0.3,
    kind: str = "",
) -> float:
    """RMSE, averaged over games and seeds."""
    played = [game(kind, n_tasks, seed) for seed in range(n_games)] if kind else main_games(n_tasks, n_games)
    return float(
        np.mean(
            [
                games.rmse(tim.estimate(*sample(one, budget, noise, seed, design), method).estimate, one.delta)
                for one in played
                for seed in range(n_seeds)
            ]
        )
    )


def shapiq_error(n_tasks: int, evaluations: int, *, n_games: int, n_sources: int, noise: float = 0.3) -> float:
    """RMSE of shapiq's best estimator here (paired Kernel Banzhaf) with this many evaluations a source."""
    from shapiq.approximator import RegressionFBII

    squares = []
    for index, one in enumerate(main_games(n_tasks, n_games)):
        rng = np.random.default_rng([n_tasks, evaluations, index, 8])
        for source in range(min(n_sources, n_tasks)):

            def play(rows: Any, one: Any = one, source: int = source, rng: Any = rng) -> Array:
                values = one.value(source, np.asarray(rows, float)) / one.scale
                return np.asarray(values + noise * rng.normal(size=len(values)))

            approximator = RegressionFBII(n_tasks - 1, max_order=1, pairing_trick=True, random_state=source)
            values = approximator.approximate(evaluations, play).get_n_order_values(1)
            squares.append(np.mean((values - np.delete(one.delta[source], source)) ** 2))
    return float(np.sqrt(np.mean(squares)))


def single_source_error(n_tasks: int, budget: int, *, n_sources: int, noise: float = 0.3) -> float:
    """RMSE of the rows of a few sources, each with a design of its own and least squares."""
    one = main_games(n_tasks, 1)[0]
    squares = []
    for source in range(n_sources):
        rng = np.random.default_rng([n_tasks, budget, source, 9])
        membership = designs.single_source(n_tasks, source, budget, source)
        scores = one.run(membership, noise, rng)
        scores[:, np.arange(n_tasks) != source] = np.nan
        row = tim.estimate(membership, scores, "ols").estimate[source]
        squares.append(np.nanmean((row - one.delta[source]) ** 2))
    return float(np.sqrt(np.mean(squares)))


def calibration(
    n_tasks: int, budget: int, noise: float, method: Method = "blup", *, n_games: int = 1, n_seeds: int = 2
) -> Row:
    """Coverage of the 95 % intervals, their half-width, expected and actual wrong signs, top-3 overlap."""
    off = ~np.eye(n_tasks, dtype=bool)
    covered, half, expected, actual, top = [], [], [], [], []
    for one in main_games(n_tasks, n_games):
        for seed in range(n_seeds):
            result = tim.estimate(*sample(one, budget, noise, seed, "hybrid"), method)
            covered.append(((result.low <= one.delta) & (one.delta <= result.high))[off].mean())
            half.append((result.high - result.low)[off].mean() / 2)
            # A score of exactly 0 has no sign to get wrong.
            signed = off & (one.delta != 0)
            expected.append(result.false_sign_rate[signed].mean())
            actual.append((np.sign(result.estimate) != np.sign(one.delta))[signed].mean())
            top.append(_overlap(result.estimate, one.delta, 3))
    return {
        "tasks": n_tasks,
        "subsets": budget,
        "noise": noise,
        "coverage": float(np.mean(covered)),
        "half width": float(np.mean(half)),
        "wrong signs expected": float(np.mean(expected)),
        "wrong signs": float(np.mean(actual)),
        "top-3 overlap": float(np.mean(top)),
    }


def false_directions(budget: int, *, n_seeds: int, n_tasks: int = 44, noise: float = 0.3) -> Row:
    """Share of wrong discoveries (exactly 0, or of the other sign) where half of all scores are exactly 0; power."""
    wrong, found = [], []
    for seed in range(n_seeds):
        one = game("quadratic", n_tasks, seed)
        result = tim.estimate(*sample(one, budget, noise, seed, "hybrid"))
        declared = result.rejected
        false = declared & (np.sign(result.estimate) != np.sign(one.delta))
        wrong.append(false.sum() / max(int(declared.sum()), 1))
        found.append(declared[np.abs(np.nan_to_num(one.delta)) > 0.5].mean())
    return {
        "tasks": n_tasks,
        "subsets": budget,
        "noise": noise,
        "false directions": float(np.mean(wrong)),
        "power above 0.5": float(np.mean(found)),
    }


def bias_under_failures(n_tasks: int, budget: int, method: Method = "blup", *, n_games: int, n_seeds: int) -> Row:
    """Mean error and RMSE when 80 % of the runs of more than half of the tasks fail."""
    off = ~np.eye(n_tasks, dtype=bool)
    biases, errors = [], []
    for one in main_games(n_tasks, n_games):
        for seed in range(n_seeds):
            membership, scores = sample(one, budget, 0.3, seed, "hybrid")
            scores = games.lose_large(membership, scores, np.random.default_rng([seed, 11]))
            result = tim.estimate(membership, scores, method)
            biases.append(np.nanmean((result.estimate - one.delta)[off]))
            errors.append(games.rmse(result.estimate, one.delta))
    return {
        "tasks": n_tasks,
        "subsets": budget,
        "method": method,
        "bias": float(np.mean(biases)),
        "largest |bias|": float(np.max(np.abs(biases))),
        "rmse": float(np.mean(errors)),
    }


def block_calibration(*, n_seeds: int, method: Method = "blup", **options: Any) -> Row:
    """Coverage of the score's mean over seeds and patients by searches of several blocks, 12 tasks, 200 subsets."""
    one = game("saturating", 12, 0)
    off = ~np.eye(12, dtype=bool)
    covered, errors, claimed = [], [], []
    for seed in range(n_seeds):
        rng = np.random.default_rng([seed, 12])
        result = tim.from_table(games.searched(one, designs.hybrid(12, 200, seed), rng, **options), method)
        covered.append(((result.low <= one.delta) & (one.delta <= result.high))[off].mean())
        errors.append(games.rmse(result.estimate, one.delta) ** 2)
        claimed.append((result.se[off] ** 2).mean())
    return {
        **{name: options.get(name, 0) for name in SEARCH_OPTIONS},
        "coverage": float(np.mean(covered)),
        "rmse": float(np.sqrt(np.mean(errors))),
        "mean se": float(np.sqrt(np.mean(claimed))),
    }


def restricted_against_full(kind: str, n_tasks: int, size: int) -> Row:
    """How far the exact restricted score, without noise, lies from the full one: two quantities, not an error."""
    off = ~np.eye(n_tasks, dtype=bool)
    distances, agreements, correlations = [], [], []
    for seed in range(2):
        one = game(kind, n_tasks, seed)
        membership = designs.sized(n_tasks, size)
        small = tim.estimate(membership, one.scores(membership), "restricted").estimate
        clear = off & (np.abs(np.nan_to_num(one.delta)) > 0.5)
        distances.append(games.rmse(small, one.delta))
        agreements.append((np.sign(small) == np.sign(one.delta))[clear].mean())
        correlations.append(np.corrcoef(small[off], one.delta[off])[0, 1])
    return {
        "game": kind,
        "tasks": n_tasks,
        "|T| <=": size,
        "distance": float(np.mean(distances)),
        "same sign above 0.5": float(np.mean(agreements)),
        "correlation": float(np.mean(correlations)),
    }


def seconds(n_tasks: int = 44, budget: int = 1600) -> float:
    """Processor seconds of the whole matrix by BLUP with intervals and tests."""
    membership, scores = sample(game("quadratic", n_tasks, 0), budget, 0.3, 0, "hybrid")
    start = time.process_time()
    tim.estimate(membership, scores)
    return time.process_time() - start


def _overlap(estimate: Array, delta: Array, k: int) -> float:
    """Mean share of the k best helpers of a source that are among its true k best."""
    shares = []
    for i in range(len(delta)):
        best = [
            set(np.argsort(np.where(np.arange(len(delta)) == i, np.inf, -a[i]))[:k].tolist()) for a in (estimate, delta)
        ]
        shares.append(len(best[0] & best[1]) / k)
    return float(np.mean(shares))


def _table(title: str, rows: Iterable[Row]) -> list[Row]:
    """Print the rows as they come, and keep them."""
    print(f"\n{title}", flush=True)
    kept: list[Row] = []
    for row in rows:
        if not kept:
            print("  ".join(f"{name:>12}" for name in row))
        cells = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
        print("  ".join(f"{cell:>{max(12, len(name))}}" for cell, name in zip(cells, row, strict=True)), flush=True)
        kept.append(row)
    return kept


def _writable(value: Any) -> Any:
    """JSON has no infinity: an error that does not exist (a cell is missing) is null; figures get four digits."""
    if isinstance(value, dict):
        return {key: _writable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_writable(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer games and seeds, no shapiq: a minute or two")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    options = parser.parse_args(arguments)
    quick = options.quick
    counts = {12: (2, 1) if quick else (4, 3), 20: (1, 1) if quick else (2, 2), 44: (1, 1) if quick else (2, 2)}
    found: dict[str, Any] = {}

    def main_table() -> Iterable[Row]:
        for (m, budget), reference in REFERENCE.items():
            n_games, n_seeds = counts[m]
            best, ols, iid, msr = (
                error(m, budget, method, design, n_games=n_games, n_seeds=n_seeds) for method, design in COMPARED
            )
            yield {
                "tasks": m,
                "subsets": budget,
                "reference": reference,
                "hyb blup": best,
                "/reference": best / reference,
                "hyb ols": ols,
                "iid blup": iid,
                "iid msr": msr,
                "blup/iid msr": best / msr,
            }

    def against_shapiq() -> Iterable[Row]:
        for m, evaluations in ((12, 50), (20, 50)) if quick else ((12, 50), (20, 50), (44, 100)):
            n_games = 1 if m == 44 else 2
            theirs = shapiq_error(m, evaluations, n_games=n_games, n_sources=8 if m == 44 else m)
            ours = error(m, m * evaluations, n_games=n_games, n_seeds=1)
            yield {"tasks": m, "trainings": m * evaluations, "shapiq": theirs, "blup": ours, "ratio": ours / theirs}

    def one_game_each() -> Iterable[Row]:
        for m, evaluations in ((12, 50), (12, 100), (12, 200), (20, 50), (20, 100), (20, 200)):
            n_games, n_seeds = counts[m]
            theirs = shapiq_error(m, evaluations, n_games=n_games, n_sources=m)
            ours = error(m, 2 * evaluations, n_games=n_games, n_seeds=n_seeds)
            yield {"tasks": m, "evaluations": evaluations, "shapiq": theirs, "blup": ours, "ratio": ours / theirs}

    def one_source() -> Iterable[Row]:
        for m, budget in ((12, 48), (20, 80), (44, 88), (44, 176), (44, 352)):
            yield {"tasks": m, "subsets": budget, "rmse": single_source_error(m, budget, n_sources=min(m, 8))}

    def stress() -> Iterable[Row]:
        for kind in ("extremes", "third order"):
            for budget in (100, 200, 400):
                best, ols = (error(12, budget, method, design, kind=kind) for method, design in COMPARED[:2])
                yield {"game": kind, "tasks": 12, "subsets": budget, "hyb blup": best, "hyb ols": ols}

    found["rmse"] = _table("RMSE", main_table())
    found["stress"] = _table("RMSE, games of higher order", stress())
    found["single source"] = _table("Single-source design, least squares", one_source())
    found["coverage"] = _table(
        "Calibration of BLUP, 95 % intervals",
        (
            calibration(m, budget, noise, n_games=counts[m][0], n_seeds=counts[m][1])
            for m in (12, 20, 44)
            for budget in (100, 200, 400)
            for noise in (0.3, 1.0, 3.0)
        ),
    )
    print(f"pooled coverage {np.mean([row['coverage'] for row in found['coverage']]):.3f}")
    found["discoveries"] = _table(
        "Discoveries at a false discovery rate of 0.10, half of all scores exactly 0",
        (false_directions(budget, n_seeds=counts[44][1]) for budget in (200, 400, 800)),
    )
    found["failures"] = _table(
        "80 % of the subsets of more than half of the tasks fail",
        (
            bias_under_failures(m, budget, method, n_games=counts[m][0], n_seeds=1)
            for m, budget in ((12, 200), (20, 200), (44, 200), (44, 400))
            for method in ("blup", "ols", "msr")
        ),
    )
    found["blocks"] = _table(
        "Calibration over blocks of (seed, fold)",
        (block_calibration(n_seeds=3 if quick else 12, **settings) for settings in SEARCHES),
    )
    found["restricted"] = _table(
        "Restricted and full scores, both exact",
        (
            restricted_against_full(kind, m, size)
            for kind, m, size in (
                ("additive", 12, 2),
                ("saturating", 12, 2),
                ("saturating", 12, 4),
                ("quadratic", 12, 2),
                ("quadratic", 12, 4),
                ("quadratic", 44, 2),
            )
        ),
    )
    found["shapiq"] = _table("Against shapiq's paired Kernel Banzhaf, as many trainings in all", against_shapiq())
    found["one game"] = _table("The same, as many evaluations of one game", one_game_each())
    found["seconds"] = seconds()
    print(f"\n44 tasks, 1600 subsets: {found['seconds']:.2f} processor seconds")
    if options.json:
        options.json.write_text(json.dumps(_writable(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
