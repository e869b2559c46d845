"""MLflow models as folders: written whole or not at all, opened from a folder or from MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tim_search.app.opening import check_named
from tim_search.gates.files import Taken, take_name
from tim_search.report import card
from tim_search.types import BadInput

if TYPE_CHECKING:
    from model.trained.deployed import DeployedModel

#: How the folder of a model that is being written begins.
MAKING = ".making-"


def write_model(model: DeployedModel, place: Path) -> str:
    """Write an MLflow model into a new folder: whole, or not under this name. Returns its card.

    Raises:
        FileExistsError: something stands at `place`.
        BadInput: it cannot be written.
    """
    from tim_search.tracking import pyfunc

    if place.exists():
        raise FileExistsError(place)
    kinds = {block.name: block for block in model.inputs}
    inputs = {
        name: kinds[modality].kind if kinds[modality].kind != "vector"
        else "text" if column in kinds[modality].levels else "number"
        for name, (modality, column) in model.columns.items()
    }  # fmt: skip
    text = card.write(model.about, model.about["scores"], [asdict(block) for block in model.inputs])
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with alone(place.parent), tempfile.TemporaryDirectory(dir=place.parent, prefix=MAKING) as aside:
            files, whole = Path(aside) / "files", Path(aside) / "model"
            model.save(files)
            pyfunc.write(whole, files, inputs, model.outputs, _records(model.example()), text)
            try:
                take_name(whole, place)
            except Taken as error:
                raise FileExistsError(place) from error
    except FileExistsError:
        raise
    except OSError as error:
        raise BadInput(f"{place.parent} cannot be written: {error}. Name a folder that you may write to.") from error
    return text


@contextlib.contextmanager
def alone(models: Path) -> Iterator[None]:
    """One process at a time writes a model here, so that whatever is half-made was left by one that was killed.

    Some network file systems lock no folders; there nothing is cleared.
    """
    handle = os.open(models, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # the operating system lets go of it when the process ends, however
            for left in models.glob(f"{MAKING}*"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def load(reference: str | Path, tracking_uri: str | None = None, *, allow_code: bool = False) -> DeployedModel:
    """Open a model: a folder that `train` wrote, or an MLflow URI (models:/name/1, models:/m-..., runs:/...).

    Parameters and JSON are read. A network of one's own is imported where `allow_code` says so; else no code is run.
    Raises BadInput where there is none.
    """
    from model.trained.deployed import DeployedModel
    from tim_search.tracking import pyfunc

    check_named(model=str(reference), tracking_uri=tracking_uri)
    name = str(reference)
    if not name.startswith(("models:", "runs:")):
        folder = Path(reference)
        return DeployedModel.load(folder / pyfunc.FILES if pyfunc.is_model(folder) else folder, allow_code=allow_code)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        raise BadInput(
            f"{name} is a model in MLflow: say where with --tracking-uri or in MLFLOW_TRACKING_URI "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db)."
        )
    from tim_search.tracking import fetch_model

    with tempfile.TemporaryDirectory() as aside:
        return DeployedModel.load(fetch_model(uri, name, aside) / pyfunc.FILES, allow_code=allow_code)
