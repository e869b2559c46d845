"""How many steps a training makes where the search file leaves that open (`batch_size: auto`, `epochs: auto`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tim_search.config.sections import SearchFile
from tim_search.gates import yaml
from tim_search.tuning.space import PAPER

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort
    from tim_search.config.resolved import ResolvedSearch

#: Settings that a search file may leave open, by `auto` or by silence.
OPEN = ("batch_size", "epochs")


def named(training: Mapping[str, Any]) -> dict[str, Any]:
    """The `training` section without what it leaves open."""
    return {name: value for name, value in training.items() if name not in OPEN or value != "auto"}


def left_open(training: Mapping[str, Any], of_network: type[Any]) -> tuple[str, ...]:
    """The settings that a `training` section leaves open, of those that the network has."""
    filled_in = named(training)
    return tuple(name for name in OPEN if name not in filled_in and name in of_network.__dataclass_fields__)


def length(search: ResolvedSearch) -> dict[str, Any]:
    """What a training takes: batch_size, epochs, updates (at most) and training rows, None where the network has no
    such settings; chosen, the names of those that the search file left open."""
    from model.networks.settings import updates

    batch, epochs = (getattr(search.settings, name, None) for name in OPEN)
    n = rows(search.cohort)
    count = updates(n, batch, epochs) if batch and epochs else None
    return {"batch_size": batch, "epochs": epochs, "updates": count, "rows": n, "chosen": list(search.chosen_steps)}


def filled(search: SearchFile, of_network: type[Any], cohort: Cohort, folder: Path) -> SearchFile:
    """The search file with the numbers that stand for what it leaves open.

    They are those of the search that the folder holds already, else those of `model.networks.settings.automatic` for
    the training rows of a fold. The space of tuning, where the file names none, has its minibatches around them.

    Args:
        search: the file as it was read.
        of_network: settings dataclass of its network.
        cohort: with its split.
        folder: the output folder of the search.
    """
    from model.networks.settings import automatic

    training = named(search.training)
    open_names = left_open(training, of_network)
    if not open_names:
        return search.model_copy(update={"training": training})
    earlier = _begun(folder)
    if earlier is not None:
        # A file of version 0.1.0 said nothing where the network's own values were meant.
        defaults = {name: of_network.__dataclass_fields__[name].default for name in open_names}
        numbers = {name: earlier.get(name, defaults[name]) for name in open_names}
    else:
        numbers = automatic(of_network, rows(cohort))
    update: dict[str, Any] = {"training": training | {name: numbers[name] for name in open_names}}
    tuning = search.tuning
    if tuning is not None and "space" not in tuning.model_fields_set:
        update["tuning"] = tuning.model_copy(update={"space": space(update["training"], of_network)})
    return search.model_copy(update=update)


def space(training: Mapping[str, Any], of_network: type[Any]) -> dict[str, Any]:
    """What tuning tries where the file names no space: the paper's, its minibatches no larger than the search's own."""
    batch = training["batch_size"]
    usual = of_network.__dataclass_fields__["batch_size"].default
    smaller = {"batch_size": [batch, 2 * batch]} if batch < usual else {}
    return {**PAPER, **smaller}


def rows(cohort: Cohort) -> int:
    """Training rows of a fold, the validation rows left out."""
    return max(1, round(int((~cohort.split.test).sum()) * (1 - 1 / cohort.split.n_folds)))


def _begun(folder: Path) -> dict[str, Any] | None:
    """The `training` section of the search that a folder holds; None where it holds none that can be read."""
    if not (folder / "search.json").exists():
        return None
    try:
        plain, _ = yaml.read(folder / "search.yaml")
        training = plain.get("training", {})
        return training if isinstance(training, dict) else {}
    except (OSError, ValueError, AttributeError):
        return None
