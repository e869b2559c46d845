"""Notes and images embedded by small models with random weights: once each, resumed, and as the papers have them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from model.data import embedding
from model.data.embedding import Embedding, embed
from model.sources.opening import open_cohort
from tests.support.cohort_folders import N, write_folder
from tim_search.types import BadInput

transformers = pytest.importorskip("transformers", reason="extra embed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "fever", "cough", "no", "better", "worse", "."]
TEXTS = ["no fever .\nbetter .", "cough . worse .", "fever cough fever cough fever cough fever cough fever cough ."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights, with a vocabulary of ten words."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=12,
    )  # fmt: skip
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=12).save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A folder whose first samples have notes, some the same."""
    write_folder(tmp_path)
    ids = [f"v{index:03d}" for index in range(100)]
    rows = [(sample, 0, TEXTS[place % 2]) for place, sample in enumerate(ids)]
    rows += [(ids[0], 1, TEXTS[2]), (ids[1], 1, ""), (ids[2], 1, TEXTS[2])]
    (tmp_path / "references").mkdir()
    frame = pd.DataFrame(rows, columns=["sample_id", "position", "text"]).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "references" / "notes.parquet", index=False)
    return tmp_path


def test_pooled_notes_become_a_vector(cohort: Path, bert: Path) -> None:
    done = embed(cohort, Embedding("notes", str(bert), batch=2))
    assert (done["samples"], done["embedded"]) == (100, 3)
    notes = open_cohort(cohort).modalities["notes"]
    assert (notes.kind, notes.values.shape) == ("vector", (N, 8))
    np.testing.assert_array_equal(notes.present, np.arange(N) < 100)
    np.testing.assert_array_equal(notes.table[0], notes.table[2])
    np.testing.assert_array_equal(notes.table[1], notes.table[99])
    # By the library's own way: a text of one piece with the special tokens around it.
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    expected = model(**tokenizer("cough . worse .", return_tensors="pt")).pooler_output[0].detach().numpy()
    np.testing.assert_allclose(notes.table[1], expected, atol=2e-3)
    before = yaml.safe_load((cohort / "cohort.before-notes.yaml").read_text())
    assert "notes" not in before["modalities"]
    assert sorted(path.name for path in (cohort / "references").iterdir()) == ["notes.parquet"]


def test_tokens_of_notes_become_a_sequence(cohort: Path, bert: Path) -> None:
    embed(cohort, Embedding("notes", str(bert), tokens=12))
    notes = open_cohort(cohort).modalities["notes"]
    assert (notes.kind, notes.values.shape) == ("sequence", (N, 12, 8))
    values = notes.values[np.arange(2)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    model = transformers.AutoModel.from_pretrained(bert).eval()
    inputs = tokenizer("cough . worse .", return_tensors="pt", add_special_tokens=False)
    expected = model(**inputs).last_hidden_state[0].detach().numpy()
    np.testing.assert_allclose(values[1, :4], expected, atol=2e-3)
    assert np.isnan(values[1, 4:]).all()
    assert np.isfinite(values[0]).all()  # two notes, cut


def test_a_run_that_was_stopped_goes_on(cohort: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_PART", 1)
    seen: list[str] = []

    def stop(text: str) -> None:
        seen.append(text)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(cohort, Embedding("notes", str(bert)), stop)
    seen.clear()
    embed(cohort, Embedding("notes", str(bert)), seen.append)
    assert seen == ["notes: 2 of 3 done"]
    whole = open_cohort(cohort).modalities["notes"].table
    embed(cohort, Embedding("notes", str(bert)))
    np.testing.assert_array_equal(open_cohort(cohort).modalities["notes"].table, whole)


def test_images_become_a_vector(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from PIL import Image

    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    Image.fromarray(pixels).save(cohort / "a.png")
    frame = pd.DataFrame({"sample_id": [f"v{index:03d}" for index in range(150)], "position": 0, "path": "a.png"})
    frame.to_parquet(cohort / "references" / "xray.parquet", index=False)
    assert embed(cohort, Embedding("xray", str(folder)))["embedded"] == 1
    xray = open_cohort(cohort).modalities["xray"]
    assert xray.values.shape == (N, 8)
    np.testing.assert_array_equal(xray.table[0], xray.table[149])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"model": "./nowhere"}, "expected a folder with a model; there is none"),
        ({"model": "{cohort}"}, "expected a model as transformers saves it"),
        ({"tokens": 13}, "--tokens: expected 1 to 12"),
        ({"modality": "letters"}, "expected a Parquet file with sample_id"),
        ({"modality": "wrong"}, "expected the columns sample_id, position and text or path, got sample"),
        ({"modality": "empty"}, "expected a text of some sample, got none"),
        ({"modality": "numbers"}, "expected texts in the column text, got int64"),
        ({"modality": "paths", "tokens": 4}, "--tokens: expected texts, got paths"),
    ],
)
def test_what_cannot_be_embedded_is_told(wanted: dict[str, Any], words: str, cohort: Path, bert: Path) -> None:
    references = cohort / "references"
    pd.DataFrame({"sample": ["v000"], "text": "x"}).to_parquet(references / "wrong.parquet")
    pd.DataFrame({"sample_id": ["v000"], "position": 0, "text": " "}).to_parquet(references / "empty.parquet")
    pd.DataFrame({"sample_id": ["v000"], "position": 0, "text": 3}).to_parquet(references / "numbers.parquet")
    pd.DataFrame({"sample_id": ["v000"], "position": 0, "path": "a.png"}).to_parquet(references / "paths.parquet")
    given = {name: value.format(cohort=cohort) if isinstance(value, str) else value for name, value in wanted.items()}
    with pytest.raises(BadInput) as error:
        embed(cohort, replace(Embedding("notes", str(bert)), **given))
    assert words in str(error.value)


@pytest.mark.parametrize(("content", "words"), [(None, "No such"), ("a: [", "the node content"), ("[1]", "it lacks")])
def test_a_folder_that_is_no_cohort_is_told(content: str | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cohort.yaml").write_text(content)
    with pytest.raises(BadInput, match=f"expected a cohort folder with a cohort.yaml; .*{words}"):
        embed(tmp_path, Embedding("notes", "anything"))


def test_models_and_images_that_do_not_fit_are_told(cohort: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    folder = cohort / "without-pooling"
    transformers.BertModel.from_pretrained(bert, add_pooling_layer=False).save_pretrained(folder)
    machine = embedding._machine(cohort, Embedding("notes", str(bert)), is_text=True)
    monkeypatch.setattr(machine.network, "pooler", None)
    with pytest.raises(BadInput, match="expected a model with a pooled output"):
        machine(["fever"])
    monkeypatch.setattr(machine.network, "forward", lambda **_: transformers.modeling_outputs.BaseModelOutput())
    with pytest.raises(BadInput, match="expected a model with a pooled output"):
        machine(["fever"])
    (cohort / "no.png").write_text("no image")
    for name in ("no.png", "nowhere.png"):
        with pytest.raises(BadInput, match=rf"{name}: expected an image file"):
            machine._pixels([name])
    Image.new("L", (20, 30)).save(cohort / "a.png")
    monkeypatch.setattr(embedding, "_MOST_SIDE", 20)
    with pytest.raises(BadInput, match="expected an image of up to 20 pixels a side"):
        machine._pixels(["a.png"])


def test_without_the_library_it_is_said(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadInput, match=r'pip install "tim-search\[embed\]"'):
        embed(cohort, Embedding("notes", "anything"))
