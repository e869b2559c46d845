"""What every plan must hold to, whichever way it chooses: subclass `PlanConformance` and run it with pytest.

The suite plays the loop on made-up scores: it trains what the plan asks for, by showing it more of a full table.
"""

from __future__ import annotations

import copy
import pickle
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.support import synthetic_games
from tim_search import designs
from tim_search.ledger.table import ScoreTable, empty
from tim_search.plans.contract import Plan, progress
from tim_search.plans.greedy import expander
from tim_search.types import Unit

N_TASKS, N_BLOCKS = 5, 3
TASKS = tuple(f"task{index:02d}" for index in range(N_TASKS))


def full_table(seed: int = 0) -> ScoreTable:
    """Scores of all 31 subsets in three blocks, with bootstrap replicates."""
    game, rng = synthetic_games.quadratic(N_TASKS, seed), np.random.default_rng(seed)
    return synthetic_games.searched(
        game, designs.exact(N_TASKS), rng, n_blocks=N_BLOCKS, noise=0.1, patient_effect=0.05, n_draws=10
    )


def rounds_of(plan: Plan, table: ScoreTable, held: Collection[Unit] = ()) -> list[list[Unit]]:
    """What a plan asks for in each round, until it asks for nothing, when the ledger holds these units at first."""
    answered = set(held)
    rounds: list[list[Unit]] = []
    while wanted := list(plan.ask(table.of(answered))):
        assert len(set(wanted)) == len(wanted), "asked for a unit twice"
        assert answered.isdisjoint(wanted), "asked for what is answered"
        assert table.answered.issuperset(wanted), "asked for what is no unit of these tasks and blocks"
        answered.update(wanted)
        rounds.append(wanted)
    return rounds


def flat(rounds: Sequence[Sequence[Unit]]) -> list[Unit]:
    """The units of all rounds."""
    return [unit for units in rounds for unit in units]


class PlanConformance(ABC):
    """What every plan must do."""

    @abstractmethod
    def plan(self) -> Plan:
        """The plan that is put to the suite, over `TASKS`."""

    @pytest.fixture(scope="class")
    @classmethod
    def full(cls) -> ScoreTable:
        return full_table()

    def test_the_same_table_gives_the_same_answer_and_stays_as_it_is(self, full: ScoreTable) -> None:
        plan, again = self.plan(), pickle.loads(pickle.dumps(self.plan()))
        for units in ([], flat(rounds_of(plan, full))[:7]):
            table = full.of(units)
            before = copy.deepcopy(table)
            assert list(plan.ask(table)) == list(plan.ask(table)) == list(again.ask(before))
            assert plan.stopping(table) == again.stopping(before)
            for name in ("membership", "scores", "trained", "replicates"):
                np.testing.assert_array_equal(getattr(table, name), getattr(before, name))

    def test_the_order_of_the_ledger_is_nothing(self, full: ScoreTable) -> None:
        order = np.random.default_rng(1).permutation(len(full.membership))
        assert full.replicates is not None
        turned = replace(
            full,
            membership=full.membership[order],
            scores=full.scores[order],
            trained=full.trained[order],
            replicates=full.replicates[order],
        )
        assert rounds_of(self.plan(), turned) == rounds_of(self.plan(), full)

    def test_a_full_ledger_leaves_nothing_to_ask_and_says_the_same(self, full: ScoreTable) -> None:
        plan = self.plan()
        rounds = rounds_of(plan, full)
        searched = full.of(flat(rounds))
        assert list(plan.ask(full)) == []
        assert plan.stopping(full) == plan.stopping(searched)
        assert progress(plan, full, full.answered) == (len(flat(rounds)), len(rounds))
        assert progress(plan, searched, searched.answered) == (len(flat(rounds)), len(rounds))

    def test_cut_anywhere_it_goes_on_to_the_same_end(self, full: ScoreTable) -> None:
        plan = self.plan()
        whole = flat(rounds_of(plan, full))
        for cut in range(0, len(whole), max(1, len(whole) // 7)):
            rest = flat(rounds_of(plan, full, whole[:cut]))
            assert sorted(rest) == sorted(whole[cut:])
            assert progress(plan, full.of(whole[:cut]), set(whole[:cut]))[0] <= cut

    def test_units_of_other_searches_change_nothing(self, full: ScoreTable) -> None:
        plan = self.plan()
        whole = set(flat(rounds_of(plan, full)))
        for seed in range(3):
            drawn = np.random.default_rng(seed).random(len(full.answered)) < 0.3
            others = {unit for unit, chosen in zip(sorted(full.answered), drawn, strict=True) if chosen}
            assert set(flat(rounds_of(plan, full, others))) == whole - others

    @pytest.mark.parametrize("n_blocks", [1, 2, N_BLOCKS])
    def test_it_ends_within_its_bounds(self, full: ScoreTable, n_blocks: int) -> None:
        plan, blocks = self.plan(), full.blocks[:n_blocks]
        assert full.replicates is not None
        part = replace(
            full,
            blocks=blocks,
            scores=full.scores[:, :n_blocks],
            trained=full.trained[:, :n_blocks],
            replicates=full.replicates[:, :n_blocks],
        )
        asked = flat(rounds_of(plan, part))
        assert 0 < len(asked) <= plan.most(blocks)
        if plan.largest is not None:
            assert max(len(unit.subset) for unit in asked) <= plan.largest
        if plan.sample is not None:
            assert set(plan.sample.units(blocks)).issuperset(asked)

    def test_units_known_beforehand_are_those_it_asks_for(self, full: ScoreTable) -> None:
        plan = self.plan()
        units = plan.units(full.blocks)
        assert plan.planned(full.blocks) == (None if units is None else len(units))
        if units is not None:
            assert rounds_of(plan, full) == [list(units)]
            assert plan.most(full.blocks) == len(units)

    def test_it_ends_where_everything_fails(self, full: ScoreTable) -> None:
        failed = replace(full, scores=np.full_like(full.scores, np.nan), replicates=None)
        plan = self.plan()
        assert 0 < len(flat(rounds_of(plan, failed))) <= plan.most(full.blocks)
        assert all(expansion.best == (expansion.source,) for expansion in expander(plan, TASKS, TASKS).result(failed))

    def test_at_any_moment_it_says_what_is_best_so_far(self, full: ScoreTable) -> None:
        plan = self.plan()
        whole = flat(rounds_of(plan, full))
        for table in (empty(TASKS, full.blocks), full.of(whole[: len(whole) // 2]), full.of(whole), full):
            best = expander(plan, TASKS[:2], TASKS, rule="paper")
            assert best.rule == "paper"
            assert [expansion.source for expansion in best.result(table)] == list(TASKS[:2])
            assert best.sharing(table).saved >= 0
