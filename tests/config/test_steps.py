"""How many steps a training makes where the search file leaves that open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.networks.length import FEWEST_UPDATES, automatic, left_to_rows, updates
from model.networks.settings import FlexCareSettings, M3HSettings, SharedSettings
from model.sources.opening import write_cohort
from model.sources.synthetic import haim_like
from tim_search import config
from tim_search.config import steps
from tim_search.types import BadInput


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort folder of 500 samples: some 320 training rows a fold."""
    folder = tmp_path_factory.mktemp("cohort") / "small"
    write_cohort(haim_like(500, 300, 0, widths=(4, 6, 2, 2), n_binary=3)[0], folder)
    return folder


def resolved(cohort: Path, out: Path, text: str = "") -> config.ResolvedSearch:
    file = cohort.parent / "search.yaml"
    file.write_text(f"cohort: {cohort}\ntasks: [diagnosis_01, stay]\ndesign: {{sized: 1}}\n{text}")
    return config.resolve(config.load(file), out)


@pytest.mark.parametrize("settings", [M3HSettings, FlexCareSettings])
@pytest.mark.parametrize("rows", [1, 15, 100, 321, 956, 1281, 2600, 5800, 250_000])
def test_a_training_makes_enough_updates(settings: type, rows: int) -> None:
    numbers = automatic(settings, rows)
    usual = settings()
    assert updates(rows, batch=numbers["batch_size"], epochs=numbers["epochs"]) >= FEWEST_UPDATES
    assert numbers["batch_size"] <= usual.batch_size
    assert numbers["epochs"] >= (settings.SMALL_COHORT or {"epochs": usual.epochs})["epochs"]
    if updates(rows, usual.batch_size, usual.epochs) >= FEWEST_UPDATES:
        assert numbers == {name: getattr(usual, name) for name in left_to_rows(settings)}


def test_smaller_minibatches_come_first() -> None:
    others = {"average": 6, "contrastive_weight": 0.1, "input_dropout": 0.1, "width": 256}
    assert automatic(M3HSettings, 956) == {"batch_size": 32, "epochs": 6, **others}
    assert automatic(M3HSettings, 100) == {"batch_size": 16, "epochs": 22, **others}
    assert automatic(SharedSettings, 956) == {"batch_size": 64, "epochs": 15}


@pytest.mark.parametrize(
    "text", ["", "training: {batch_size: auto}", "training: {epochs: auto, contrastive_weight: auto}"]
)
def test_what_is_left_open_is_filled_and_written_down(cohort: Path, tmp_path: Path, text: str) -> None:
    search = resolved(cohort, tmp_path, text)
    chosen = {
        "batch_size": 16,
        "epochs": 8,
        "contrastive_weight": 0.1,
        "width": 256,
        "input_dropout": 0.1,
        "average": 6,
    }
    assert search.file.training == chosen
    assert json.loads(search.context.settings).items() >= chosen.items()
    assert steps.length(search)["chosen"] == search.file.training


def test_a_number_in_the_file_is_taken(cohort: Path, tmp_path: Path) -> None:
    search = resolved(cohort, tmp_path, "training: {batch_size: 256, learning_rate: 0.001, contrastive_weight: 1}")
    assert (search.settings.batch_size, search.settings.learning_rate) == (256, 0.001)
    assert search.settings.contrastive_weight == 1, "the paper's"


@pytest.mark.parametrize("training", ["{update: sequential}", "{update: in_turn}", "{epochs: 3}", "{epochs: 1}"])
def test_weights_are_averaged_where_the_file_leaves_room(cohort: Path, tmp_path: Path, training: str) -> None:
    assert resolved(cohort, tmp_path, f"training: {training}").settings.average == 0
    assert resolved(cohort, tmp_path, "training: {epochs: 4}").settings.average == 6


def test_what_a_network_does_not_have_is_not_left_open(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="contrastive_weight"):
        resolved(cohort, tmp_path, "network: flexcare\ntraining: {contrastive_weight: auto}")


@pytest.mark.parametrize("value", ["automatic", "Auto", "[16]", "0"])
def test_another_word_is_refused(cohort: Path, tmp_path: Path, value: str) -> None:
    with pytest.raises(BadInput, match=r"training\.batch_size"):
        resolved(cohort, tmp_path, f"training: {{batch_size: {value}}}")


@pytest.mark.parametrize(("training", "batch"), [("", 256), ("training: {batch_size: 64}\n", 64)])
def test_a_search_that_was_begun_keeps_its_settings(cohort: Path, tmp_path: Path, training: str, batch: int) -> None:
    """Version 0.1.0 wrote no numbers where the network's own were meant."""
    (tmp_path / "search.json").write_text("{}")
    (tmp_path / "search.yaml").write_text(f"cohort: {cohort}\n{training}")
    settings = resolved(cohort, tmp_path).settings
    assert (settings.batch_size, settings.contrastive_weight) == (batch, 1.0)


def test_tuning_tries_minibatches_around_the_chosen(cohort: Path, tmp_path: Path) -> None:
    space = config.study(resolved(cohort, tmp_path)).space
    assert space == {"batch_size": [16, 32], "learning_rate": [3e-4, 1e-3]}
    own = resolved(cohort, tmp_path, "tuning: {space: {learning_rate: [0.001, 0.01]}}")
    assert list(config.study(own).space) == ["learning_rate"]
    assert config.study(resolved(cohort, tmp_path, "tuning: {}")).space == space
