"""From a finished search to a model to take away, and from a model to predictions.

`train` fits the combination that a search chose on the whole training part, judges it once on the test patients, and
leaves an MLflow model with its card in the search's folder and in MLflow. `load` opens one from either place.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tim_search import config
from tim_search.gates import small_cells
from tim_search.gates.plain import plain
from tim_search.plans import expansion
from tim_search.report import card
from tim_search.results import opened, readings
from tim_search.tuning import choices
from tim_search.types import BadInput, Subset, near, some, subset

if TYPE_CHECKING:
    from model.trained.deployed import DeployedModel

#: Rows, and numbers in them, that are predicted at once: a bound on memory.
_ROWS, _NUMBERS = 100_000, 50_000_000
#: How the folder of a model that is being written begins.
_MAKING = ".making-"


@dataclass(frozen=True)
class Trained:
    """A model that was trained.

    Attributes:
        folder: the MLflow model: card, signature, example, requirements, parameters.
        source, subset: what it predicts, and for which task the combination was chosen.
        scores: on the test patients, as plain rows; see `model.trained.deployed.TestScore`.
        published: run_id, model_uri and registered, as far as MLflow took them.
        missed: whether MLflow took less than was asked for.
        table: a name for rows to predict: rows.csv, or rows.parquet where a CSV file cannot hold them.
    """

    folder: Path
    source: str
    subset: Subset
    scores: tuple[dict[str, Any], ...]
    published: dict[str, str]
    missed: bool
    table: str = "rows.csv"


def train(
    folder: str | Path,
    source: str,
    *,
    rule: expansion.Rule | None = None,
    members: Sequence[str] | None = None,
    seeds: int = 1,
    register: str | None = None,
    allow_code: bool = False,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = print,
) -> Trained:
    """Train the combination a search chose for a source task, judge it on the test patients, and publish it.

    Before the labels of the test patients are read, the reading is logged (`tim_search.results.readings`).

    Args:
        folder: the output folder of the search.
        source: the task to predict as well as possible.
        rule: of the greedy expansion; default: the search's own.
        members: the combination itself, instead of the one the search chose; `source` is one of them.
        seeds: so many networks are trained and their predictions averaged.
        register: name in MLflow's model registry.
        allow_code: whether a network of one's own may be imported.
        note, warn: take lines about what is being done, and about MLflow, which never costs the model.

    Raises:
        BadInput: no such source or tasks, a search that has not come as far, a cohort that is no longer the search's,
            or a training that diverged.
    """
    from model.trained.deployed import evaluate
    from model.trained.deployed import train as fit
    from tim_search.tracking import pyfunc

    results = opened.open_search(folder)
    chosen, reason = _chosen(results, source, rule, members)
    if seeds < 1:
        raise BadInput(f"--seeds: expected a whole number of at least 1, got {seeds}. One network is the default.")
    note(f"Reading the cohort {results.manifest.cohort}")
    found = config.resolve(
        config.load(results.folder / "search.yaml", allow_code=allow_code), results.folder, allow_code=allow_code
    )
    if found.context != results.manifest.context:
        raise BadInput(
            f"{results.folder}: the cohort {found.cohort.name} or the training settings are no longer those of the "
            "search, so its choice does not hold for them. Bring the cohort back, or search again."
        )
    settings = replace(found.settings, **choices.chosen(results.folder, chosen))
    note(f"Training {' + '.join(chosen)} on the whole training part with {seeds} seed{'s' if seeds > 1 else ''}")
    threads = max(1, int(found.resources.cpus))
    made = fit(
        found.cohort,
        found.context.network,
        settings,
        chosen,
        source,
        tuple(range(seeds)),
        found.file.device,
        threads,
    )
    readings.log(results.folder, "train", source=source, subset=list(chosen), seeds=list(range(seeds)))
    note("Judging it on the test patients")
    small = found.file.small_cells
    scores = [{**plain(asdict(row)), "rows": small_cells.near(row.rows, small)} for row in evaluate(made, found.cohort)]
    facts = {
        **made.about,
        "training": small_cells.of_training(made.about["training"], small),
        "source": source,
        "subset": list(chosen),
        "reason": reason,
        "overlaps": [pair for pair in results.manifest.overlaps if set(pair) <= set(chosen)],
        "search": results.manifest.name,
        "search_id": results.manifest.published_id(results.folder, found.tracking_uri),
        "context": found.context.key,
        "network": found.context.network,
        "settings": asdict(settings),
        "scores": scores,
        "small_cells": small,
        "readings": len(readings.read(results.folder)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": pyfunc.versions(),
    }
    made = replace(made, about=facts)
    place, text = _keep(results.folder / "models", source, made)
    note("Publishing it to MLflow")
    from tim_search.tracking.tracker import Tracker

    tracker = Tracker(
        found.tracking_uri,
        results.manifest.name,
        results.manifest.published_id(results.folder, found.tracking_uri),
        cohort=results.manifest.cohort,
        context=found.context.key,
        kept=f"The model is whole in {place}.",
        again="MLflow can serve it from there.",
        beside=True,
        warn=warn,
    )
    published = tracker.model(place, source, chosen, scores, text, register)
    table = "rows.csv" if all(one.kind == "vector" for one in made.inputs) else "rows.parquet"
    return Trained(place, source, chosen, tuple(scores), published, bool(tracker.missed), table)


def _chosen(
    results: opened.SearchResults, source: str, rule: expansion.Rule | None, members: Sequence[str] | None
) -> tuple[Subset, str]:
    """The combination to train, and why it is this one."""
    tasks = [name for name in results.tasks if name != results.control]
    if unknown := [name for name in (source, *(members or ())) if name not in tasks]:
        guess = near(unknown[0], tasks)
        raise BadInput(f"no such task in the search: {some(unknown)}.{guess} Its tasks are: {some(tasks, 20)}.")
    if members is not None:
        if source not in members:
            raise BadInput(
                f"--subset: expected a combination that holds the source {source}, got {' + '.join(members)}. Add it."
            )
        return subset(members), "named by the user"
    found = results.expand(rule, sources=[source])[0][0]
    if not found.complete:
        raise BadInput(
            f"{results.folder}: the search has not trained all that the choice for {source} rests on. Run it to its "
            "end, or name a combination with --subset."
        )
    used = results.greedy(rule).rule.replace("_", " ")
    if found.best == (source,):
        return found.best, f"rule {used}: no combination beats the task alone"
    return found.best, f"rule {used}: validation gain {found.gain:+.4f} over the task alone, before confirmation"


def _keep(models: Path, source: str, made: DeployedModel) -> tuple[Path, str]:
    """Write the MLflow model into a new folder models/SOURCE-N: whole, or not under this name. Returns it and the card.

    Raises BadInput where it cannot be written.
    """
    number = 1
    while True:
        try:
            return models / f"{source}-{number}", write_model(made, models / f"{source}-{number}")
        except FileExistsError:
            number += 1


def write_model(made: DeployedModel, place: Path) -> str:
    """Write an MLflow model into a new folder: whole, or not under this name. Returns its card.

    Raises:
        FileExistsError: something stands at `place`.
        BadInput: it cannot be written.
    """
    from tim_search.tracking import pyfunc

    if place.exists():
        raise FileExistsError(place)
    kinds = {one.name: one for one in made.inputs}
    inputs = {
        name: kinds[modality].kind if kinds[modality].kind != "vector"
        else "text" if column in kinds[modality].levels else "number"
        for name, (modality, column) in made.columns.items()
    }  # fmt: skip
    text = card.write(made.about, made.about["scores"], [asdict(one) for one in made.inputs])
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.parent), tempfile.TemporaryDirectory(dir=place.parent, prefix=_MAKING) as aside:
            files, whole = Path(aside) / "files", Path(aside) / "model"
            made.save(files)
            pyfunc.write(whole, files, inputs, made.outputs, _records(made.example()), text)
            try:
                whole.rename(place)  # fails where a folder with content stands
            except OSError as error:
                if place.exists():
                    raise FileExistsError(place) from error
                raise
    except FileExistsError:
        raise
    except OSError as error:
        raise BadInput(f"{place.parent} cannot be written: {error}. Name a folder that you may write to.") from error
    return text


@contextlib.contextmanager
def _alone(models: Path) -> Iterator[None]:
    """One process at a time writes a model here, so that whatever is half-made was left by one that was killed.

    Some network file systems lock no folders; there nothing is cleared.
    """
    handle = os.open(models, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # the operating system lets go of it when the process ends, however
            for left in models.glob(f"{_MAKING}*"):
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
    from tim_search.tracking.tracker import fetch_model

    with tempfile.TemporaryDirectory() as aside:
        return DeployedModel.load(fetch_model(uri, name, aside) / pyfunc.FILES, allow_code=allow_code)


def read_table(path: Path, index: str | None = None) -> pd.DataFrame:
    """A table of rows to predict: CSV or Parquet, with an id column as its index where one is named.

    Raises BadInput where it cannot be read or lacks the column.
    """
    try:
        if path.suffix in (".parquet", ".pq"):
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, dtype=None if index is None else {index: str})  # an id 007 stays one
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as a table ({error}). Give a CSV or .parquet file.") from error
    if index is None:
        return frame
    if index not in frame:
        raise BadInput(f"{path}: expected the id column {index}, its columns are {', '.join(map(str, frame))}.")
    return frame.set_index(index)


def predict(model: DeployedModel, rows: pd.DataFrame) -> pd.DataFrame:
    """`DeployedModel.predict`, some rows at a time; the row index becomes a column where it has a name."""
    size = max(1, min(_ROWS, _NUMBERS // sum(math.prod(one.shape) for one in model.inputs)))
    parts = [model.predict(rows.iloc[start : start + size]) for start in range(0, max(1, len(rows)), size)]
    frame = pd.concat(parts)
    return frame if frame.index.name is None else frame.reset_index()


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV or, by the name's end, Parquet: whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    try:
        if path.suffix in (".parquet", ".pq"):
            frame.to_parquet(aside, index=False)
        else:
            frame.to_csv(aside, index=False)
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise BadInput(f"{path} cannot be written: {error}. Name another file with --out.") from error
