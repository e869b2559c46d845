"""Search folders that several tests of commands read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.searches import trained_search


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_search(tmp_path_factory.mktemp("search") / "small")


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_search(tmp_path_factory.mktemp("search") / "half", n_subsets=4)
