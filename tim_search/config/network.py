"""What only the network of a search can check: its settings, and the values that tuning tries for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tim_search.config import steps
from tim_search.config.sections import SearchFile
from tim_search.gates import reading, yaml
from tim_search.tuning import space
from tim_search.types import BadInput, Finding


def settings(
    network: Any, training: Mapping[str, Any], lines: yaml.Lines, allow_code: bool = False
) -> tuple[Any, list[Finding]]:
    """(the network's settings from the `training` section, nothing) or (None, what is wrong).

    What the section leaves open has the network's own value here; see `steps.filled`.
    """
    from model.networks.settings import settings_class

    if not isinstance(network, str):
        return None, []  # refused already, as a field of the wrong type
    try:
        if ":" in network:  # imported here: torch
            from model.networks.registry import settings_of

            of_network = settings_of(network, allow_code=allow_code)
        else:
            of_network = settings_class(network)
    except BadInput as error:
        return None, [Finding(reading.place(("network",), lines), str(error).removeprefix("network: "), "")]
    # No setting is a yes or no, and pydantic would read `true` as 1.
    if switches := [key for key, value in training.items() if isinstance(value, bool)]:
        problem = "expected a number or a word, got yes or no."
        return None, [Finding(reading.place(("training", key), lines), problem, "Change it.") for key in switches]
    # pydantic takes its strictness from the class itself, and the networks' side must not know pydantic.
    strict = type(of_network.__name__, (of_network,), {"__pydantic_config__": ConfigDict(extra="forbid")})
    try:
        values: Any = TypeAdapter(strict).validate_python(steps.named(training, of_network))
    except ValidationError as error:
        return None, reading.findings(error, of_network, lines, prefix=("training",))
    return of_network(**{field.name: getattr(values, field.name) for field in dataclasses.fields(of_network)}), []


def tuned_values(search: SearchFile, lines: yaml.Lines) -> tuple[dict[str, Any], list[Finding]]:
    """The space of the `tuning` section as the network takes it, and what is wrong with it."""
    if search.tuning is None:
        return {}, []

    def check(name: str, value: Any) -> tuple[Any, str]:
        # Whoever reads the space has read the file, and so been allowed its network.
        with_value, findings = settings(search.network, {**search.training, name: value}, {}, allow_code=True)
        return getattr(with_value, name, value), " ".join(f"{finding.problem} {finding.fix}" for finding in findings)

    values, problems = space.plain(search.tuning, check)
    return values, [Finding(reading.place(("tuning", "space", *at), lines), problem, "") for at, problem in problems]
