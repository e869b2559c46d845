"""Fixtures of several test files: Ray and an S3 server (one of each a session), the command line, MLflow stores."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings

from tests.support import ROOT

# The same examples every time: what they find today they find for everybody. HYPOTHESIS_PROFILE=explore looks further.
hypothesis_settings.register_profile("same", derandomize=True)
hypothesis_settings.register_profile("explore")
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

if TYPE_CHECKING:
    from tests.support.searches import Call
    from tim_search.app import deploy


@pytest.fixture(scope="session")
def _end_ray() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def local_ray(_end_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray on this machine with four logical CPUs; an executor that finds it running uses it and leaves it running."""
    import ray

    if not ray.is_initialized():
        # The workers inherit it; they have to import the trainers of this folder.
        monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[tuple[str, list[str]]]:
    """A server that speaks S3, on a free port of this machine: (its URL, the methods of the requests it got)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    application, requests = server._server.app, []

    def noting(environment: Any, start_response: Any) -> Any:
        requests.append(environment["REQUEST_METHOD"])
        return application(environment, start_response)

    server._server.app = noting
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}", requests
    server.stop()


@pytest.fixture
def s3_requests(_s3_server: tuple[str, list[str]]) -> list[str]:
    """The methods of the requests that the S3 server got, in their order; grows."""
    return _s3_server[1]


@pytest.fixture
def bucket(_s3_server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new bucket on a real S3 server, which credentials in the environment open, for child processes too."""
    import boto3

    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": _s3_server[0],
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    from tim_search.cli import main

    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        code = ended.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


SMALL_SEARCH = """
cohort: support2
name: small
tasks: [hospdead, slos_log, phenotype]
training: {epochs: 1, width: 8, batch_size: 1024, replicates: 2}
design: {sized: 2}
seeds: [0]
folds: [0, 1]
device: cpu
"""


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished search, without MLflow."""
    from tests.support.searches import finish

    return finish(tmp_path_factory.mktemp("search"), SMALL_SEARCH)


@pytest.fixture(scope="module")
def published_model(finished_search: Path, tmp_path_factory: pytest.TempPathFactory) -> deploy.Trained:
    """A model of a copy of that search, published to the copy's own store and registered."""
    from tim_search.app import deploy

    out = tmp_path_factory.mktemp("trained") / "out put ü"
    shutil.copytree(finished_search, out)
    messages: list[str] = []
    model = deploy.train(
        out, "hospdead", members=["hospdead", "slos_log", "phenotype"], register="death", warn=messages.append
    )
    assert messages == []
    return model


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite store that holds no search."""
    from mlflow import MlflowClient

    from tests.support.mlflow_stores import uri_of

    uri = uri_of(tmp_path_factory.mktemp("empty"))
    MlflowClient(tracking_uri=uri).search_experiments()
    return uri


@pytest.fixture
def server_folder(tmp_path: Path, empty_store: str) -> Path:
    """A folder for a server, with its database made already."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store.removeprefix("sqlite:///"), folder / "mlflow.db")
    return folder
