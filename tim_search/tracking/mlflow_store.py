"""MLflow as this product reaches it: short waits, queries of runs, and a SQLite database that goes with its folder.

Knows nothing of what is published there. Only client objects are used: the caller's own active run, tracking URI and
environment stay as they are. A SQLite database is made and changed to newer forms by MLflow alone, one process at a
time; its artifacts are those in mlartifacts/ beside it, wherever the folder was when they were written.

`writable` and `reading` give a client; what goes wrong is an OSError of the one and a BadInput of the other.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import socket
import sqlite3
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tim_search.gates.files import make_folder, open_regular
from tim_search.gates.texts import for_terminal
from tim_search.gates.urls import Recipient, redacted, redacted_url
from tim_search.types import BadInput

#: Tag of the experiments that hold searches, so that queries need not look into all others.
MARK = "tim_search"
#: Tags of a new experiment: MLflow's pages open its runs as trainings of models, and not as traces of language models.
_EXPERIMENT_TAGS = {MARK: "1", "mlflow.experimentKind": "custom_model_development"}
#: MLflow cuts longer values of tags and parameters, with a warning only.
MAX_VALUE = 6000
#: What MLflow takes at once.
_MOST_METRICS, _MOST_TAGS = 1000, 100
#: Folder of the artifacts, beside a SQLite database.
ARTIFACTS = "mlartifacts"

_CONNECT_SECONDS = 3.0
#: The ports of database servers whose URI names none.
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
#: In force during our own calls, where the caller has not set them: a server that is down must not hold a search up for
#: the minutes MLflow's defaults allow, and neither links nor progress bars belong into another program's output.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A connection kept open would go on writing into a database that was removed with its folder.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
#: They print tracebacks of what we say in one sentence.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic")
#: What MLflow says of a database whose change to a newer form was cut short.
_HALF_CHANGED = re.compile(r"table \S+ already exists|duplicate column name|no such (table|column)")
_SQLITE = b"SQLite format 3\0"


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
            with one_process(path, needed=False):
                if path is not None:
                    _check_whole(path)
                client = _open(uri)
            yield client
    except (MlflowException, OSError, sqlite3.Error) as error:
        raise BadInput(
            f"MLflow at {for_terminal(redacted_url(uri))} could not be read: {reason(error)} Check the tracking URI "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db), and that a server answers there."
        ) from error


def writable(uri: str) -> MlflowClient:
    """A client to write with; MLflow makes a SQLite database that is missing.

    Raises OSError where MLflow cannot be opened, sqlite3.OperationalError where the database is locked.
    """
    path = sqlite_path(uri)
    with one_process(path, needed=True):
        if path is not None:
            if not path.exists() or path.stat().st_size == 0:
                # Not by a client: it would take a database of this name that was removed meanwhile for still there.
                SqlAlchemyStore(f"sqlite:///{path}", (path.parent / ARTIFACTS).as_uri()).engine.dispose()
            _check_whole(path)
            _bring_home(path)
        return _open(uri)


@contextmanager
def one_process(path: Path | None, *, needed: bool) -> Iterator[None]:
    """A block that only one process at a time is in for a SQLite database; for None nothing is held.

    MLflow makes its database in hundreds of steps, and so it changes one to a newer form: of two processes that do so
    at once, one loses its records. Where the place cannot be written MLflow would try for minutes; a lock file in it,
    which stays there empty, cannot be had at once.

    Raises OSError where the lock cannot be had and is `needed`; a database that cannot be written can still be read.
    """
    if path is None:
        yield
        return
    try:
        if needed:
            make_folder(path.parent)
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(13, "Permission denied", str(path))
        lock = os.open(
            path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
        )
    except OSError as error:
        if needed:
            why = f"{path} cannot be written ({error.strerror})"
            raise OSError(f"{why}. Name another place with --tracking-uri or MLFLOW_TRACKING_URI.") from error
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open(uri: str) -> MlflowClient:
    """A client, the database behind it opened by MLflow; what comes from the libraries below becomes an OSError."""
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except Exception as error:
        path = sqlite_path(uri)
        if path is not None and _HALF_CHANGED.search(str(error)):
            raise _broken(path, "a change to a newer form was cut short") from error
        if isinstance(error, MlflowException | OSError):
            raise
        raise OSError(reason(error)) from error


def reach(uri: str) -> None:
    """Raise OSError within seconds when nothing can be behind the URI; MLflow itself would try for minutes."""
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise OSError(f"this is no URI ({error}).") from None
    if parts.scheme == "sqlite":
        _reach_database(uri)
        return
    if parts.scheme in ("", "file"):
        raise OSError(
            "this is a path, and MLflow 3 no longer keeps runs in plain files. Name a database instead: "
            "sqlite:////absolute/path/mlflow.db."
        )
    if parts.scheme not in ("http", "https"):
        with suppress(ValueError):  # of a port that is none the driver tells
            port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
            if parts.hostname and port:
                socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
        return
    try:
        recipient = Recipient.of(uri)
    except BadInput as error:
        problem = "no host" if not parts.netloc.rpartition("@")[2] else f"no host and port that can be ({error})"
        raise OSError(f"the tracking URI names {problem}.") from None
    host = str(parts.hostname)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return  # only the proxy can tell
    try:
        socket.create_connection((host, int(recipient.host.rpartition(":")[2])), _CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise OSError(f"nothing answers at {recipient.host} ({error}).") from error


def _reach_database(uri: str) -> None:
    """Raise OSError for a SQLite URI behind which is no database of MLflow's, and none can be made."""
    if odd := sorted(set("?#%") & set(uri)):
        raise OSError(f"MLflow takes a path with {' or '.join(odd)} for another one. Name another folder.")
    path = sqlite_path(uri)
    if path is None or not (path.exists() or path.is_symlink()):
        return
    try:
        with open_regular(path) as file:
            start = file.read(len(_SQLITE))
    except BadInput as error:
        raise OSError(str(error)) from None
    if start not in (b"", _SQLITE):
        raise OSError(f"{path} is not a SQLite database.")


def _check_whole(path: Path) -> None:
    """Raise OSError for a database of something else, and for a broken one, with what to do about it.

    Raises sqlite3.OperationalError where it cannot be told (locked, no permission).
    """
    with closing(_connect(path, "ro")) as database:
        try:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables & {"experiments", "alembic_version"}:
                raise OSError(f"{path} is a SQLite database of something else.")
            # MLflow makes its default experiment last of all.
            whole = "experiments" in tables and database.execute("SELECT 1 FROM experiments").fetchone() is not None
            fault = "" if whole else "an interruption left it half made"
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            fault = str(error)
    if fault:
        raise _broken(path, fault)


def _broken(path: Path, fault: str) -> OSError:
    return OSError(
        f"{path} is broken ({fault}). Move it away, as with `mv {path} {path}.broken`, and publish again: everything "
        "is published anew from the ledger, and nothing is trained twice."
    )


def reason(error: Exception) -> str:
    """The first line of what went wrong, as a sentence without secrets."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    if cause := re.search(r"Max retries exceeded.*Caused by (\w+)", text):
        text = f"the server takes connections but does not answer ({cause[1]})"
    return for_terminal(redacted(text), most=500).rstrip(".") + "."


# Runs and their artifacts ---------------------------------------------------------------------------------------------


def experiment(client: MlflowClient, uri: str, name: str, warn: Callable[[str], None]) -> str:
    """Id of the experiment, made where it is missing; `warn` is told where a server takes no artifacts.

    Raises OSError where it was deleted.
    """
    path, there = sqlite_path(uri), client.get_experiment_by_name(name)
    if there is None:
        artifacts = (path.parent / ARTIFACTS).as_uri() if path is not None else None
        there = client.get_experiment(
            client.create_experiment(name, artifact_location=artifacts, tags=_EXPERIMENT_TAGS)
        )
    elif there.lifecycle_stage == "deleted":
        raise OSError(
            f"its experiment {name} is deleted. Restore it: MLFLOW_TRACKING_URI={redacted_url(uri)} mlflow experiments "
            f"restore --experiment-id {there.experiment_id}"
        )
    elif MARK not in there.tags:
        client.set_experiment_tag(there.experiment_id, MARK, "1")
    if uri.startswith("http") and urllib.parse.urlsplit(there.artifact_location).scheme in ("", "file"):
        warn(
            f"MLflow at {redacted_url(uri)} takes no figures and tables: they land on this machine, in "
            f"{there.artifact_location}, where others cannot read them. Start the server with --serve-artifacts and "
            f"--artifacts-destination, and rename or delete its experiment {name}: one that exists keeps its place."
        )
    return str(there.experiment_id)


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


def log_metrics(client: MlflowClient, run_id: str, values: Mapping[str, float], step: int) -> None:
    """Log numbers of a run; what is not finite is left out."""
    now = int(time.time() * 1000)
    finite = [Metric(_key(key), float(value), now, step) for key, value in values.items() if math.isfinite(value)]
    for start in range(0, len(finite), _MOST_METRICS):
        client.log_batch(run_id, metrics=finite[start : start + _MOST_METRICS])


def set_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Set tags of a run; longer values than MLflow keeps are cut."""
    tags = [RunTag(_key(key), value[:MAX_VALUE]) for key, value in values.items()]
    for start in range(0, len(tags), _MOST_TAGS):
        client.log_batch(run_id, tags=tags[start : start + _MOST_TAGS])


def _key(name: str) -> str:
    """A key as MLflow takes it: of 250 letters, digits and some signs at most."""
    return re.sub(r"[^/\w.\- :]", "_", name)[:250]


# A SQLite database ----------------------------------------------------------------------------------------------------


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for other URIs and for a database in memory."""
    name = uri.removeprefix("sqlite:///")
    return Path(name).absolute() if name not in (uri, "", ":memory:") else None


def local(uri: str) -> Path | None:
    """The path of a file URI, None for artifacts kept elsewhere."""
    parts = urllib.parse.urlsplit(uri)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """The database itself, never made here."""
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)


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
