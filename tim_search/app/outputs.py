"""Where a command may write what its user names: never over what it reads, or over another search, cohort or model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from tim_search.gates.files import checked_path
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: A file that shows what a folder is -> the word for it. What lies in such a folder is somebody's input.
_FOLDERS = {"search.json": "a search", "cohort.yaml": "a cohort", "MLmodel": "a model", "model.json": "a model"}


def check_output(out: str | Path, inputs: Iterable[str | Path], endings: Sequence[str]) -> None:
    """Raise BadInput where a file may not be written to `out`.

    Args:
        out: a file that may be there; an output of the same kind is written anew.
        inputs: what the command reads, which it may not overwrite.
        endings: of the names of such outputs, with their dots; one without an ending may be new.
    """
    path = checked_path(out)
    place = for_terminal(out)
    if path.is_dir():
        raise BadInput(f"--out: expected a file, got the folder {place}. Name a file in it.")
    if not os.path.lexists(path):
        if path.suffix and path.suffix.lower() not in endings:
            raise BadInput(
                f"--out: expected a name that ends in {', '.join(endings)}, got {place}. Name such a file: what is "
                "written is of no other kind."
            )
        return
    same = [entry for entry in map(Path, inputs) if entry.exists() and entry.samefile(path)]
    if same:
        raise BadInput(f"--out: {place} is what is read, and would be overwritten. Name another file.")
    if path.suffix.lower() not in endings:
        raise BadInput(
            f"--out: {place} is there and is no file that this command writes ({', '.join(endings)}). "
            "Name another file."
        )
    for marker, what in _FOLDERS.items():
        # Of a search a table or a page beside search.json is written anew; what lies deeper is its own.
        above = path.resolve().parents[1 if marker == "search.json" else 0 : 3]
        if home := next((folder for folder in above if (folder / marker).exists()), None):
            raise BadInput(f"--out: {place} belongs to {what}, {for_terminal(home)}. Name another file.")


def check_folder(out: str | Path) -> None:
    """Raise BadInput where a command may not write its files into the folder `out`; it may be there or not."""
    path = checked_path(out)
    if path.exists() and not path.is_dir():
        raise BadInput(f"--out: expected a folder, got the file {for_terminal(out)}. Name a folder.")
    for marker, what in _FOLDERS.items():
        if (path / marker).exists():
            raise BadInput(f"--out: {for_terminal(out)} is the folder of {what}. Name another folder.")
