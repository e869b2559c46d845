"""A search whose subsets are tuned one by one, from its file to a model, on SUPPORT2 and real Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tim_search import config
from tim_search.app import confirmer, deploy, forecast, runner, tuning
from tim_search.report import page as report
from tim_search.results import confirmation, opened
from tim_search.tuning import choices, per_subset
from tim_search.types import BadInput


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("local_ray")
def test_a_whole_search_is_run_read_and_confirmed(tmp_path: Path) -> None:
    """Of pairs, so that all tasks together, which a confirmation asks for, are no subset of the search."""
    file = tmp_path / "search.yaml"
    file.write_text(
        "cohort: support2\ntasks: [hospdead, slos_log, dzclass]\ndesign: {sized: 2}\nblocks: 2\ndevice: cpu\n"
        "training: {epochs: 1, width: 8, replicates: 10}\nresources: {workers: 1}\n"
        "tuning: {scope: per_subset, space: {batch_size: [128, 1024]}}\n"
    )
    found = config.resolve(config.load(file), tmp_path / "out")
    assert found.own is not None
    content = forecast.forecast(found)
    assert (content["units"], content["combinations"], content["todo"]) == (12, 2, 24)
    finished = runner.run_search(found)
    assert (finished.outcome.trained, finished.outcome.failed, finished.missed) == (24, 0, ())
    assert runner.run_search(found).outcome.trained == 0

    results = opened.open_search(found.out)
    status = results.status()
    assert (status["finished"], status["trained"]) == (True, 12)
    assert status["tuning"] == {"combinations": 2, "trained": 24, "planned": 24}
    assert found.own.note in results.tim().notes
    # Every score is one of the trainings' under the settings that did better in the other block.
    skills = found.own.skills(results.ledger, found.tasks, list(results.table.rows))
    chosen = per_subset.choose(skills, [0, 1])
    np.testing.assert_array_equal(chosen[:, 0], skills[:, :, 1].argmax(axis=0))
    page = (found.out / "report.html").read_text()
    assert "128 or 1024, chosen for every subset" in page
    assert "Best settings of the 6 subsets" in page
    assert [row["units"] for row in report.content(results)["cost"]] == [12, 12]
    assert len((found.out / "tables" / "tuning.csv").read_text().splitlines()) == 1 + 6 * 2

    together = tuple(sorted(found.tasks))
    with pytest.raises(BadInput, match="is not tuned yet"):
        choices.chosen(found.out, together)
    confirmed = confirmer.confirm(found.out, given=("hospdead", "slos_log"), seeds=2, draws=100)
    assert all(math.isfinite(row["difference"]) for row in confirmed.rows)
    after = opened.open_search(found.out).status()
    assert (after["trained"], after["tuning"]) == (12, status["tuning"]), "what is confirmed is no part of the search"
    assert choices.chosen(found.out, together)["batch_size"] in (128, 1024)
    asked = confirmation.read(found.out)
    assert asked is not None
    for members in asked.subsets:
        settings = json.loads(asked.contexts[members].settings)
        assert settings["batch_size"] == choices.chosen(found.out, members)["batch_size"]

    (record,) = tuning.tune(found, [("hospdead",)])
    assert record["choice"] == found.own.values[per_subset.best(skills)[list(results.table.rows).index(("hospdead",))]]
    made = deploy.train(found.out, "hospdead", members=["hospdead"])
    card = (made.folder / "model_card.md").read_text()
    assert f"batch_size {choices.chosen(found.out, ('hospdead',))['batch_size']}" in card
