"""What several test files share: one local Ray for the whole session, because starting it takes seconds."""

from __future__ import annotations

import logging
import os
import uuid
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import ROOT


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
