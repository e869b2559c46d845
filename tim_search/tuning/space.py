"""The `tuning:` section of a search file: which settings of the network are tried, and by whom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from math import prod
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tim_search.gates import reading

#: Combinations that Optuna tries where the file names no number.
TRIALS = 20
#: The most combinations of a grid.
LARGEST_GRID = 1000

#: (name of a setting, value) -> the value as the network takes it, and what is wrong with it ("" where nothing is).
Check: TypeAlias = Callable[[str, Any], tuple[Any, str]]


class Range(BaseModel):
    """Every number from `low` to `high`; whole numbers where the setting is one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(description="a number")
    high: float = Field(description="a number above low")
    log: bool = Field(default=False, description="true or false (whether factors matter rather than differences)")


def _values(given: Any) -> Any:
    """A list, or a range whose parts have their types; anything else is an error that says how to write it."""
    if isinstance(given, list | Range):
        return given
    if isinstance(given, dict) and {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        numbers = [given["low"], given["high"]]
        if isinstance(given.get("log", False), bool) and all(
            type(end) in (int, float) and math.isfinite(end) for end in numbers
        ):
            return given
    raise _error(f"expected a list of values or {{low: 1, high: 2, log: true}}, got {reading.short(given)}")


def _error(text: str, *at: str) -> PydanticCustomError:
    return PydanticCustomError("search.value", "{text}", {"text": text, "at": at})


#: Batch sizes and learning rates of the M3H paper, section 4.3.
PAPER: dict[str, list[Any] | Range] = {"batch_size": [256, 512], "learning_rate": [1e-4, 3e-4]}


class TuningSection(BaseModel):
    """Settings that are chosen by cross-validation: before the search, or within it for every subset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Literal["global", "per_subset"] = Field(
        default="global", description="global (one choice for the search) or per_subset (one for every subset)"
    )
    space: dict[str, Annotated[list[Any] | Range, BeforeValidator(_values)]] = Field(
        default=PAPER,
        min_length=1,
        description="settings of the network with the values to try, such as `learning_rate: [1e-4, 3e-4]`",
    )
    sampler: Literal["grid", "optuna"] = Field(default="grid", description="grid or optuna")
    trials: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST_GRID,
        description=f"a whole number from 1 to {LARGEST_GRID} (combinations optuna tries)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> TuningSection:
        if self.sampler == "grid" and self.trials is not None:
            raise _error("goes with `sampler: optuna`; a grid tries every combination. Take it out", "trials")
        if self.scope == "per_subset" and self.sampler != "grid":
            raise _error(
                "with `scope: per_subset` every subset is trained with the same combinations, so expected grid, got "
                f"{self.sampler}. Take it out, and list the values in `space`",
                "sampler",
            )
        ranges = [name for name, values in self.space.items() if isinstance(values, Range)]
        if self.sampler == "grid" and ranges:
            raise _error("a grid needs a list of values. Write one, or `sampler: optuna`", "space", ranges[0])
        size = prod(len(values) for values in self.space.values() if isinstance(values, list))
        if self.sampler == "grid" and size > LARGEST_GRID:
            raise _error(f"{size} combinations are too many for a grid. Write `sampler: optuna`", "space")
        return self


def plain(section: TuningSection, check: Check) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], str]]]:
    """The space as plain values that the network takes, and what is wrong with it: (place, problem)."""
    space: dict[str, Any] = {}
    problems: list[tuple[tuple[str, ...], str]] = []
    for name, allowed in section.space.items():
        given = allowed if isinstance(allowed, list) else [allowed.low, allowed.high]
        if isinstance(allowed, Range):
            given = [int(value) if value.is_integer() else value for value in given]
        checked = [check(name, value) for value in given]
        wrong = [problem for _, problem in checked if problem]
        values = [value for value, _ in checked]
        if wrong:
            problems.append(((name,), wrong[0]))
        elif isinstance(allowed, list) and (not values or len(set(values)) < len(values)):
            problems.append(((name,), f"expected one or more distinct values, got {given}."))
        elif isinstance(allowed, list):
            space[name] = values
        elif not all(isinstance(value, int | float) for value in values) or values[0] >= values[1]:
            problems.append(((name,), f"expected low below high, got {given[0]} and {given[1]}."))
        elif allowed.log and values[0] <= 0:
            problems.append(((name,), f"expected a low above 0 with `log: true`, got {given[0]}."))
        else:
            space[name] = {"low": values[0], "high": values[1], "log": allowed.log}
    return space, problems


def trials(section: TuningSection, space: Mapping[str, Any]) -> int:
    """How many combinations a study of this section has."""
    lists = [values for values in space.values() if isinstance(values, list)]
    every = prod(len(values) for values in lists) if len(lists) == len(space) else None
    if section.sampler == "grid":
        return every or 0
    wanted = section.trials or TRIALS
    return wanted if every is None else min(wanted, every)
