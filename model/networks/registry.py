"""The networks by name, and the door for a network of one's own.

A search file names a network and may not run code: one that is not built in is imported only where the caller allows
it, with `--allow-code` on the command line.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

from model.networks import flexcare, m3h, shared
from model.networks.contract import Network
from model.networks.lifted import Lifted, OwnNetwork
from model.networks.settings import settings_class
from tim_search.types import BadInput

_BUILT_IN: dict[str, Network] = {"flexcare": flexcare, "m3h": m3h, "shared": shared}


def find(name: str, *, allow_code: bool = False) -> Network:
    """The network behind a name: "m3h", or "package.module:Class" of one's own, with or without "@digest".

    Args:
        allow_code: whether a module may be imported. The current folder counts as a place to import from.

    Raises:
        BadInput: no such network; one's own without permission; a class that is no `OwnNetwork`; or source code that
            is not what the digest says.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]
    if ":" not in name:
        settings_class(name)  # says which there are
    if not allow_code:
        raise BadInput(
            f"network: {name} is code of your own, which a search file or a model may not run by itself. Read it, and "
            "add --allow-code to the command (for MLflow: TIM_SEARCH_ALLOW_CODE=1) if you trust it."
        )
    place, _, digest = name.partition("@")
    network = _load(place)
    if digest and digest != _digest(network):
        raise BadInput(
            f"network: the source code of {place} is not that of the search (it was {digest}, it is "
            f"{_digest(network)}). Scores of two versions do not compare: bring the earlier one back, or start a "
            "search in another folder."
        )
    return Lifted(network)


def settings_of(name: str, *, allow_code: bool = False) -> type[Any]:
    """Settings dataclass of a network; raises BadInput as `find` does."""
    if ":" not in name:
        return settings_class(name)
    network = find(name, allow_code=allow_code)
    assert isinstance(network, Lifted)
    return network.settings


def identity(name: str) -> str:
    """The name as scores are keyed by it: with the digest of its source file, where it is one's own."""
    return name if ":" not in name or "@" in name else f"{name}@{_digest(_load(name))}"


class Importable(str):
    """A folder from which code of one's own may be imported where it is unpickled, behind all that is installed.

    What is pickled after it, such as the settings of an own network, finds its classes there.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _importable, (str(self),)


def _importable(folder: str) -> Importable:
    for place in (folder, os.getcwd()) if folder else ():
        if place not in sys.path:
            sys.path.append(place)
    return Importable(folder)


def folder_of(network: str) -> Importable:
    """The current folder, from where a network of one's own is imported; "" of one that is built in."""
    return Importable(os.getcwd() if ":" in network else "")


def _load(place: str) -> type[OwnNetwork]:
    module, _, attribute = place.partition(":")
    if "" not in sys.path:
        _importable(os.getcwd())
    try:
        network = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"network: {place} cannot be imported ({error}). Write package.module:Class, and start the command in the "
            "folder that holds the package, or name that folder in PYTHONPATH."
        ) from error
    if not (isinstance(network, type) and issubclass(network, OwnNetwork)):
        raise BadInput(
            f"network: expected a subclass of model.networks.lifted.OwnNetwork, got {place}. See docs/networks.md."
        )
    if lacking := sorted(network.__abstractmethods__):
        raise BadInput(
            f"network: {place} has no {' and no '.join(lacking)}, which a network of one's own must define. See "
            "docs/networks.md."
        )
    return network


def _digest(network: type[OwnNetwork]) -> str:
    """8 hexadecimal digits of the file that defines a class."""
    return hashlib.sha256(Path(inspect.getfile(network)).read_bytes()).hexdigest()[:8]
