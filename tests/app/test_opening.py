"""The same start of commands that go on with a search: which names and numbers of seeds they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tim_search.app import confirmer, opening
from tim_search.types import BadInput

RESULTS: Any = SimpleNamespace(tasks={"dead": 1, "stay": 2, "dead?": 3}, control="dead?")


def test_the_tasks_of_a_search_are_those_without_its_control() -> None:
    assert opening.check_tasks("--subset", None, RESULTS) == ["dead", "stay"]
    assert opening.check_tasks("--subset", ["stay"], RESULTS) == ["dead", "stay"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "--subset: expected names of tasks, got none. Is a variable unset"),
        ([""], r"--subset: expected tasks of the search, got ''\. Its tasks are: dead, stay"),
        (["dead", "styx"], "got styx. Did you mean stay"),
        (["dead?"], "Its tasks are: dead, stay"),
    ],
)
def test_names_that_are_none_of_its_tasks(names: list[str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        opening.check_tasks("--subset", names, RESULTS)


@pytest.mark.parametrize("seeds", [0, -1, 10**6])
def test_numbers_of_seeds_that_no_command_takes(seeds: int) -> None:
    with pytest.raises(BadInput, match=f"--seeds: expected a whole number from 1 to 1000, got {seeds}"):
        opening.check_seeds(seeds, 5)


@pytest.mark.parametrize("name", ["", "  "])
def test_an_option_that_names_nothing_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="--register: expected a name, got an empty one"):
        opening.check_named(address=None, register=name)
    opening.check_named(address=None, register="a name")


@pytest.mark.parametrize("draws", [0, -1, 10**12])
def test_a_confirmation_of_no_draws_or_of_endlessly_many_is_refused(draws: int) -> None:
    with pytest.raises(BadInput, match="--draws: expected a whole number from 1 to"):
        confirmer.check_options(5, draws, (), None)
