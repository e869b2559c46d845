"""Search files that do not become a search: what is refused late."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from tim_search import config
from tim_search.config import designs, files, resolving
from tim_search.config.sections import ExactDesign
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput


def test_a_tuning_space_that_the_network_refuses() -> None:
    found = config.resolve(config.SearchFile(cohort="support2", tasks=["hospdead", "slos_log"]))
    section = TuningSection(space={"batch_size": [-1]})
    odd = dataclasses.replace(found, file=found.file.model_copy(update={"tuning": section}))
    with pytest.raises(BadInput, match="batch_size"):
        config.study(odd)


def test_a_search_file_whose_cohort_falls_over_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise BadInput("the cohort changed meanwhile")

    path = tmp_path / "search.yaml"
    path.write_text("cohort: support2\n")
    monkeypatch.setattr(resolving, "_open", refuse)
    assert "the cohort changed meanwhile" in [finding.problem for finding in config.check(path)]


def test_exact_designs_end_somewhere() -> None:
    names = [f"t{number}" for number in range(designs.EXACT_LIMIT + 1)]
    (finding,) = designs.misfits(ExactDesign(), names, len(names))
    assert finding.place == "design"
    assert f"up to {designs.EXACT_LIMIT} tasks" in finding.problem


def test_a_search_file_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "search.yaml")
    search, findings = files.read(tmp_path / "search.yaml")
    assert search is None
    assert "expected a file, got a pipe" in str(findings[0])
