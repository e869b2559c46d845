"""A trained combination as an MLflow model in a folder: signature, made-up example, requirements, model card.

The folder is complete: `mlflow models serve` and `mlflow models predict` take it as it is, wherever tim-search is
installed, and `tim_search.tracking.Tracker` publishes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from tim_search.gates.plain import read_object

#: Where the files of `model.trained.deployed.DeployedModel` lie in an MLflow model's folder.
FILES = "artifacts/model"
CARD = "model_card.md"

#: Whose versions a model is pinned to: all that predicting runs through.
_RUNS_THROUGH = ("tim-search", "mlflow", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "torch")

_INPUT_TYPES = {
    "number": DataType.double,
    "text": DataType.string,
    "sequence": Array(Array(DataType.double)),
    "image": Array(Array(Array(DataType.double))),
}
_OUTPUT_TYPES = {"probability": "double", "value": "double", "cluster": "long", "text": "string"}


def versions() -> dict[str, str]:
    """Installed versions of what a model runs through, without build labels (2.13.0+cpu is 2.13.0)."""
    installed = {}
    for name in _RUNS_THROUGH:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name).partition("+")[0]
    return installed


def write(
    folder: Path,
    files: Path,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    example: Sequence[Mapping[str, Any]],
    card: str,
) -> None:
    """Write an MLflow model.

    Args:
        folder: to write; must not exist.
        files: of the model, as `DeployedModel.save` writes them.
        inputs: column -> "number", "text", "sequence" or "image". All are optional, for a modality may be absent.
        outputs: column -> "probability", "value", "cluster" or "text".
        example: made-up records.
        card: the model card, Markdown.
    """
    signature = ModelSignature(
        Schema([ColSpec(_INPUT_TYPES[kind], name, required=False) for name, kind in inputs.items()]),
        Schema([ColSpec(_OUTPUT_TYPES[kind], name, required=False) for name, kind in outputs.items()]),
    )
    # The model checks its input itself: MLflow would drop unknown columns, so that a misspelt modality became an
    # absent one, and refuse whole numbers for a double. The price: JSON requests are {"inputs": [records]} alone.
    signature._is_signature_from_type_hint = True
    with tempfile.TemporaryDirectory() as aside, _quiet():
        source = Path(aside) / "model"
        shutil.copytree(files, source)
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"model": str(source)},
            signature=signature,
            input_example=list(map(dict, example)),
            pip_requirements=[f"{name}=={number}" for name, number in versions().items()],
        )
    model = Model.load(str(folder))
    flavor = model.flavors["python_function"]
    # Paths of the machine that trained mean nothing elsewhere.
    flavor["artifacts"]["model"]["uri"] = FILES
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    model.save(str(folder / "MLmodel"))
    (folder / CARD).write_text(card, encoding="utf-8")


def belongs_to(folder: Path, run_id: str, model_id: str, location: str) -> None:
    """Write into a model's MLmodel which run and which logged model it is."""
    model = Model.load(str(folder))
    model.run_id, model.model_id, model.artifact_path = run_id, model_id, location
    model.save(str(folder / "MLmodel"))


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model of this product."""
    return (folder / FILES / "model.json").is_file()


def facts(folder: Path) -> dict[str, Any]:
    """What the model's model.json says."""
    return read_object(folder / FILES / "model.json", "description of a model")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's chatter, and with the model's own code allowed."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    # MLflow tries the model while it saves it; its network's code, if it has one of its own, is running here already.
    ours = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "TIM_SEARCH_ALLOW_CODE": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
