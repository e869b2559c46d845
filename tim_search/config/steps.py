"""What a training takes where the search file leaves that to the rows there are: `batch_size: auto`, `epochs: auto`."""

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


def named(training: Mapping[str, Any], of_network: type[Any]) -> dict[str, Any]:
    """The `training` section without what it leaves open, by `auto`."""
    from model.networks.length import left_to_rows

    may_be_open = left_to_rows(of_network)
    return {name: value for name, value in training.items() if name not in may_be_open or value != "auto"}


def left_open(training: Mapping[str, Any], of_network: type[Any]) -> tuple[str, ...]:
    """The settings that a `training` section leaves open, by `auto` or by silence, of those that the network has."""
    from model.networks.length import left_to_rows

    filled_in = named(training, of_network)
    return tuple(name for name in left_to_rows(of_network) if name not in filled_in)


def length(search: ResolvedSearch) -> dict[str, Any]:
    """What a training takes: batch_size, epochs, updates (at most) and training rows, None where the network has no
    such settings; chosen, by name what stands for the settings that the search file left open.
    """
    from model.networks.length import updates

    batch, epochs = (getattr(search.settings, name, None) for name in ("batch_size", "epochs"))
    n = rows(search.cohort)
    count = updates(n, batch, epochs) if batch and epochs else None
    chosen = {name: getattr(search.settings, name) for name in search.chosen_steps}
    return {"batch_size": batch, "epochs": epochs, "updates": count, "rows": n, "chosen": chosen}


def filled(search: SearchFile, of_network: type[Any], cohort: Cohort, folder: Path) -> SearchFile:
    """The search file with the numbers that stand for what it leaves open.

    They are those of the search that the folder holds already, else those of `model.networks.length.automatic` for
    the training rows of a fold. The space of tuning, where the file names none, has its minibatches around them.

    Args:
        search: the file as it was read.
        of_network: settings dataclass of its network.
        cohort: with its split.
        folder: the output folder of the search.
    """
    from model.networks.length import automatic

    training = named(search.training, of_network)
    open_names = left_open(training, of_network)
    if not open_names:
        return search.model_copy(update={"training": training})
    earlier = _begun(folder)
    if earlier is not None:
        # A file of version 0.1.0 said nothing where the network's own values were meant.
        defaults = {name: of_network.__dataclass_fields__[name].default for name in open_names}
        numbers = {name: earlier.get(name, defaults[name]) for name in open_names}
    else:
        numbers = automatic(of_network, rows(cohort), training)
    update: dict[str, Any] = {"training": training | {name: numbers[name] for name in open_names}}
    tuning = search.tuning
    if tuning is not None and "space" not in tuning.model_fields_set:
        update["tuning"] = tuning.model_copy(update={"space": space(update["training"], of_network)})
    return search.model_copy(update=update)


def space(training: Mapping[str, Any], of_network: type[Any]) -> dict[str, Any]:
    """What tuning tries where the file names no space: the paper's, or what suits smaller minibatches."""
    batch = training["batch_size"]
    usual = of_network.__dataclass_fields__["batch_size"].default
    # With few updates a third of the rate learns nothing (docs/networks.md).
    return {"batch_size": [batch, 2 * batch], "learning_rate": [3e-4, 1e-3]} if batch < usual else dict(PAPER)


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
