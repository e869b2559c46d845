"""A confirmation: what is looked at before test patients are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.searches import Call, trained_search
from tim_search.results import readings


@pytest.mark.parametrize("name", ["tables", "figures"])
def test_no_test_patient_is_read_where_nothing_can_be_shown_of_it(tmp_path: Path, call: Call, name: str) -> None:
    folder = trained_search(tmp_path / "out")
    (folder / name).write_text("mine")
    code, _, err = call("confirm", folder)
    assert code == 2
    assert f"{name} cannot be written" in " ".join(err.split())
    assert "Move it away" in err
    assert readings.read(folder) == []
    assert (folder / name).read_text() == "mine"
