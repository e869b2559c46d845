"""What several test files share: one local Ray for the whole session, because starting it takes seconds."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest


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
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
