"""MLflow as this product reaches it: short waits, queries of runs, and a SQLite database that goes with its folder.

Knows nothing of what is published there; `tracker` does. Only client objects are used: the caller's own
active run, tracking URI and environment stay as they are. A SQLite database is made under another name and renamed when
it is whole. Its artifacts are those in mlartifacts/ beside it, wherever the folder was when they were written.

`writable` and `reading` give a client; what goes wrong is an OSError of the one and a BadInput of the other.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import socket
import sqlite3
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tim_search.types import BadInput

#: Tag of the experiments that hold searches, so that queries need not look into all others.
MARK = "tim_search"
#: Folder of the artifacts, beside a SQLite database.
ARTIFACTS = "mlartifacts"

_CONNECT_SECONDS = 3.0
#: In force during our own calls, where the caller has not set them: a server that is down must not hold a search up for
#: the minutes MLflow's defaults allow, and neither links nor progress bars belong into another program's output.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A connection kept open would go on writing into a database that was set aside.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
#: They print tracebacks of what we say in one sentence.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic")
#: What MLflow says of a database whose change to a newer form was cut short.
_HALF_CHANGED = re.compile(r"table \S+ already exists|duplicate column name|no such (table|column)")
#: A database takes seconds to make; one that is this old and still has its other name was left by a killed process.
_LEFT_OVER_SECONDS = 600.0


# Reaching it ----------------------------------------------------------------------------------------------------------


@contextmanager
def our_calls() -> Iterator[None]:
    """Short timeouts and no chatter, for our own calls to MLflow; afterwards everything is as it was."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    os.environ.update(added)
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def reading(uri: str) -> Iterator[MlflowClient]:
    """A client for queries; what MLflow raises becomes BadInput."""
    try:
        path = sqlite_path(uri)
        if path is not None and not path.is_file():
            # MLflow would make an empty database here, and a misspelt path would look like a search that never ran.
            raise FileNotFoundError(f"there is no file {path}.")
        with our_calls():
            reach(uri)
            if path is not None and (fault := _fault(path)):
                raise OSError(
                    f"{path} is broken ({fault}). Run its search again: it sets this file aside, publishes everything "
                    "anew, and trains nothing twice."
                )
            yield _open(uri)
    except (MlflowException, OSError, sqlite3.Error) as error:
        raise BadInput(
            f"MLflow at {shown(uri)} could not be read: {reason(error)} Check the tracking URI "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db), and that a server answers there."
        ) from error


def writable(uri: str, warn: Callable[[str], None]) -> MlflowClient:
    """A client to write with; a SQLite database is made, mended or set aside first, of which `warn` is told.

    Raises OSError where MLflow cannot be opened, sqlite3.OperationalError where the database is locked.
    """
    path = sqlite_path(uri)
    if path is not None:
        _make_ready(path, warn)
    try:
        return _open(uri)
    except OSError as error:
        if path is None or not _HALF_CHANGED.search(str(error)):
            raise
        _set_aside(path, "a change to a newer form was cut short", warn)
        _make(path)
        return _open(uri)


def _open(uri: str) -> MlflowClient:
    """A client, the database behind it opened by MLflow; what comes from the libraries below becomes an OSError."""
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise OSError(reason(error)) from error


def reach(uri: str) -> None:
    """Raise OSError within seconds when nothing can be behind the URI; MLflow itself would try for minutes."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "sqlite":
        if found := sorted(set("?#%") & set(uri)):
            raise OSError(f"MLflow takes a path with {' or '.join(found)} for another one. Name another folder.")
        path = sqlite_path(uri)
        if path is not None and path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
            if start not in (b"", b"SQLite format 3\0"):
                raise OSError(f"{path} is not a SQLite database.")
        return
    if parts.scheme in ("", "file"):
        raise OSError("this is a path, and MLflow 3 no longer keeps runs in plain files.")
    if parts.scheme not in ("http", "https"):
        return  # another database: its driver sees to it
    if not parts.hostname:
        raise OSError("the tracking URI names no host.")
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return  # only the proxy can tell
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"nothing answers at {parts.hostname}:{port} ({error}).") from error


def shown(uri: str) -> str:
    """A text with URIs without the user and the password that may stand before the host; paths keep their @."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", uri)


def reason(error: Exception) -> str:
    """The first line of what went wrong, as a sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    if cause := re.search(r"Max retries exceeded.*Caused by (\w+)", text):
        text = f"the server takes connections but does not answer ({cause[1]})"
    return shown(text if len(text) <= 300 else f"{text[:300]}...").rstrip(".") + "."


# Runs and their artifacts ---------------------------------------------------------------------------------------------


def experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment, made where it is missing."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if MARK not in found.tags:
            client.set_experiment_tag(found.experiment_id, MARK, "1")
        return str(found.experiment_id)
    path = sqlite_path(uri)
    artifacts = (path.parent / ARTIFACTS).as_uri() if path is not None else None
    return str(client.create_experiment(name, artifact_location=artifacts, tags={MARK: "1"}))


def experiments(client: MlflowClient) -> list[str]:
    """Ids of the experiments that hold searches."""
    ids: list[str] = []
    token = None
    while True:
        page = client.search_experiments(filter_string=f"tags.{MARK} = '1'", page_token=token)
        ids += [str(experiment.experiment_id) for experiment in page]
        if not (token := page.token):
            return ids


def runs(
    client: MlflowClient,
    experiments: Sequence[str],
    *,
    finished: bool = True,
    limit: int | None = None,
    **tags: str | None,
) -> list[Run]:
    """Runs with these tags, newest first."""
    conditions = [f"tags.{key} = {_quoted(value)}" for key, value in tags.items() if value is not None]
    conditions += ["attributes.status = 'FINISHED'"] if finished else []
    runs: list[Run] = []
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments), " and ".join(conditions), order_by=["attributes.start_time DESC"],
            max_results=limit or 1000, page_token=token,
        )  # fmt: skip
        runs += page
        if limit is not None or not (token := page.token):
            break
    return runs


def _quoted(text: str) -> str:
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise BadInput(
        f"The name {text!r} holds both kinds of quotes, which MLflow cannot search for. Choose another name."
    )


def fetch(client: MlflowClient, uri: str, run: Run, name: str, destination: str) -> Path:
    """A copy of an artifact; that beside the database where its folder has been moved since it was written."""
    path, stored = sqlite_path(uri), local(run.info.artifact_uri)
    if path is not None and stored is not None and not (stored / name).exists():
        beside = path.parent / ARTIFACTS / run.info.run_id / "artifacts" / name
        if not beside.exists():
            raise FileNotFoundError(f"the database is whole, but there is no file {beside} any more.")
        return Path(shutil.copy(beside, destination))
    return Path(client.download_artifacts(run.info.run_id, name, destination))


# A SQLite database ----------------------------------------------------------------------------------------------------


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for other URIs and for a database in memory."""
    name = uri.removeprefix("sqlite:///")
    return Path(name).absolute() if name not in (uri, "", ":memory:") else None


def local(uri: str) -> Path | None:
    """The path of a file URI, None for artifacts kept elsewhere."""
    parts = urllib.parse.urlsplit(uri)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _connect(path: Path) -> sqlite3.Connection:
    """The database itself, never made here."""
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)


def _fault(path: Path) -> str | None:
    """What is wrong with MLflow's database, None if nothing is.

    Raises sqlite3.OperationalError where it cannot be told (locked, no permission), OSError for another's database.
    """
    with closing(_connect(path)) as database:
        try:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables & {"experiments", "alembic_version"}:
                raise OSError(f"{path} is a SQLite database of something else.")
            # MLflow makes its default experiment last of all.
            if "experiments" not in tables or not database.execute("SELECT 1 FROM experiments LIMIT 1").fetchall():
                return "it was left half made by an interruption"
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            return None if found == "ok" else found
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            return str(error)


def _make_ready(path: Path, warn: Callable[[str], None]) -> None:
    """See to it that there is a whole database whose artifacts go beside it."""
    if path.is_file() and path.stat().st_size > 0 and (fault := _fault(path)):
        _set_aside(path, fault, warn)
    if not path.is_file() or path.stat().st_size == 0:
        _make(path)
    _bring_home(path)


def _set_aside(path: Path, fault: str, warn: Callable[[str], None]) -> None:
    """Rename a broken database, its journal with it: left behind, that would be played into the next database."""
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    for end in ("-journal", "-wal", "-shm", ""):
        if (part := path.with_name(path.name + end)).exists():
            part.rename(aside.with_name(aside.name + end))
    warn(
        f"MLflow's database {path} is broken ({fault}): it is now called {aside.name}, and a new one takes its place. "
        "What is in the ledger, the tables and the figures is not touched."
    )


def _make(path: Path) -> None:
    """Make an empty database of MLflow: whole, or not under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{path.name}.making-"
    for left in path.parent.iterdir():
        if left.name.startswith(prefix) and time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
            left.unlink(missing_ok=True)
    part = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        SqlAlchemyStore(f"sqlite:///{part}", (path.parent / ARTIFACTS).as_uri()).engine.dispose()
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # of a database that is gone
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}-journal").unlink(missing_ok=True)


def _bring_home(path: Path) -> None:
    """Point a database that was moved or copied with its folder at the artifacts beside it.

    MLflow keeps artifact locations as absolute paths and offers no way to change them, so its tables are changed.
    Experiments whose artifacts were put elsewhere on purpose stay as they are, and so do single runs whose artifacts
    are still where they were and not here.
    """
    home = path.parent / ARTIFACTS
    with closing(_connect(path)) as database, database:
        marked = database.execute(
            "SELECT experiments.experiment_id, artifact_location FROM experiments JOIN experiment_tags AS tags "
            "ON tags.experiment_id = experiments.experiment_id WHERE tags.key = ?",
            [MARK],
        ).fetchall()
        for experiment, location in marked:
            old = local(location)
            if old is None or old.name != ARTIFACTS or old.resolve() == home.resolve():
                continue
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", [home.as_uri(), experiment]
            )
            runs = database.execute(
                "SELECT run_uuid, artifact_uri, tags.value FROM runs JOIN tags USING (run_uuid) "
                "WHERE experiment_id = ? AND tags.key = 'kind'",
                [experiment],
            ).fetchall()
            for run, stored, kind in runs:
                here = home / run / "artifacts"
                # The run of a search is written on, whatever became of its earlier artifacts.
                if kind == "search" or here.exists() or not (there := local(stored)) or not there.exists():
                    database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", [here.as_uri(), run])
            _bring_models_home(database, experiment, home)


def _bring_models_home(database: sqlite3.Connection, experiment: int, home: Path) -> None:
    """The same for the models of an experiment and their registered versions."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"logged_models", "model_versions"} <= tables:
        return  # of an older MLflow, which kept no models
    logged = database.execute(
        "SELECT model_id, artifact_location FROM logged_models WHERE experiment_id = ?", [experiment]
    ).fetchall()
    for model, stored in logged:
        here = (home / "models" / model / "artifacts").as_uri()
        if local(here).exists():  # type: ignore[union-attr]
            database.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", [here, model])
            database.execute(
                "UPDATE model_versions SET storage_location = ? WHERE storage_location = ?", [here, stored]
            )
