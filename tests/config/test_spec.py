"""The search file: what is allowed, what is refused and how that is said, and what a file resolves to."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tim_search import config
from tim_search.app import extension, forecast, search_folder
from tim_search.config import sections
from tim_search.gates import reading
from tim_search.gates import yaml as gate
from tim_search.loop.manifest import Manifest
from tim_search.plans.surrogate import Surrogate
from tim_search.tuning import choices
from tim_search.types import BadInput, Finding

SIX = ["hospdead", "dnr_later", "dzclass", "slos_log", "avtisst", "phenotype"]


def write(folder: Path, text: str, name: str = "search.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(BadInput) as caught:
        config.load(write(folder, text))
    return str(caught.value)


def misfit(**fields: Any) -> str:
    with pytest.raises(BadInput) as caught:
        config.resolve(config.SearchFile(cohort="support2", **fields))
    return str(caught.value)


def findings(raw: dict[str, Any]) -> list[Finding]:
    """What is wrong with the content of a search file; an exception of any other kind is a failure of the test."""
    try:
        config.SearchFile.model_validate(raw)
    except ValidationError as error:
        inner = {"resources": sections.ResourcesSection, "greedy": sections.GreedyDesign}
        return reading.findings(error, config.SearchFile, {}, inner)
    return []


def test_only_the_cohort_has_no_default(tmp_path: Path) -> None:
    search = config.load(write(tmp_path, "cohort: support2\n", "my first search.yaml"))
    assert search.cohort == "support2"
    assert search.name == "my-first-search"
    assert search.tasks is None
    assert (
        "cohort: expected `support2` or `diabetes130` (built in) or the path of a cohort folder, got nothing"
        in refusal(tmp_path, "name: x\n")
    )


def test_all_tasks_but_some(tmp_path: Path) -> None:
    text = "cohort: support2\ntasks: {all_but: [dnr_later, hospdead]}\ndesign: {sized: 2}\n"
    search = config.load(write(tmp_path, text))
    found, every = config.resolve(search), config.resolve(config.SearchFile(cohort="support2"))
    rest = [name for name in every.tasks if name not in ("dnr_later", "hospdead", every.design.get("control"))]
    assert list(found.tasks) == rest, "in the cohort's own order"
    named = config.resolve(search.model_copy(update={"tasks": tuple(rest)}))
    assert (found.context, found.design) == (named.context, named.design), "it is the search that names the others"
    assert yaml.safe_load(config.dump(search))["tasks"] == {"all_but": ["dnr_later", "hospdead"]}
    assert config.load(write(tmp_path, config.dump(search), "again.yaml")).tasks == search.tasks


def test_tasks_to_leave_out_are_those_of_the_cohort(tmp_path: Path) -> None:
    told = misfit(tasks={"all_but": ["hospdeath", "slos_log"]})
    assert "tasks.all_but: no such task: 'hospdeath'. Did you mean hospdead? Allowed:" in told
    every = list(config.resolve(config.SearchFile(cohort="support2", design={"sized": 2})).tasks)  # type: ignore[arg-type]
    told = misfit(tasks={"all_but": every}, design="exact")
    assert "tasks.all_but: expected to leave a task, got all 12 tasks of the cohort. Leave out fewer." in told
    assert len(told.splitlines()) <= 2
    path = write(tmp_path, yaml.safe_dump({"cohort": "support2", "tasks": {"all_but": every[1:]}}))
    assert {one.place for one in config.check(path) if one.place.startswith("tasks.")} <= {f"tasks.{every[0]}"}
    path = write(tmp_path, yaml.safe_dump({"cohort": "support2", "tasks": {"all_but": every}}))
    assert [one.place for one in config.check(path)] == ["tasks.all_but"]


def test_a_task_left_out_may_have_labels_that_cannot_be_scored(tmp_path: Path) -> None:
    """As with a list of tasks: only those that are searched have to be sound."""
    from model.sources.opening import open_cohort, write_cohort

    write_cohort(open_cohort("support2"), tmp_path / "cohort")
    path = tmp_path / "cohort" / "samples.parquet"
    frame = pd.read_parquet(path)
    frame["label_hospdead"] = 0.0
    frame.to_parquet(path, index=False)
    whole = config.check(write(tmp_path, "cohort: cohort\n"))
    assert any(one.place == "tasks.hospdead" and one.severity == "error" for one in whole)
    rest = config.check(write(tmp_path, "cohort: cohort\ntasks: {all_but: [hospdead]}\n"))
    assert not [one for one in rest if one.place == "tasks.hospdead" or one.severity == "error"]
    assert "hospdead" not in config.resolve(config.load(tmp_path / "search.yaml")).tasks


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = "cohort: data/mine\nledger: store\nout: results\n"
    search = config.load(write(tmp_path, text))
    assert search.cohort == str(tmp_path / "data/mine")
    assert search.ledger == tmp_path / "store"
    assert search.out == tmp_path / "results"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed: [0]", ["line 2, seed: unknown key.", "Did you mean seeds?", "Allowed:"]),
        ("seeds: 3", ["line 2, seeds: expected a list of up to 10000 whole numbers", "got 3"]),
        ("seeds: [0, -1]", ["line 2, seeds[1]: expected", "got -1"]),
        ("seeds: []", ["seeds: expected", "got []"]),
        ("tasks: hospdead", ["line 2, tasks: expected `all` or a list, got hospdead. Write [hospdead]."]),
        ("tasks: []", ["tasks: expected `all` or a list of at least one name"]),
        ("tasks: [a, b, a]", ["tasks: named more than once: a."]),
        ("tasks: [[a]]", ["line 2, tasks[0]: expected `all`, a list of task names or {all_but: [...]}, got ['a']"]),
        ("tasks: {all_but: hospdead}", ["line 2, tasks.all_but: expected a list of task names, got 'hospdead'"]),
        ("tasks: {all_but: all}", ["tasks.all_but: expected a list of task names, got 'all'"]),
        ("tasks: {all_but: []}", ["tasks.all_but: expected", "an empty list"]),
        ("tasks: {all_but: [a, b, a]}", ["tasks.all_but: named more than once: a."]),
        ("tasks: {all_but: [[a]]}", ["line 2, tasks.all_but[0]: expected a list of task names, got ['a']"]),
        ("tasks: {all_but:}", ["tasks.all_but: expected a list of task names, got nothing"]),
        ("tasks: {}", ["tasks.all_but: expected a list of task names, got nothing. Add a line"]),
        ("tasks: {allbut: [a]}", ["tasks.allbut: unknown key. Did you mean all_but?"]),
        ("tasks: 3", ["tasks: expected `all`, a list of task names or {all_but: [...]}, got 3"]),
        ("design: {greedy: {sources: {all_but: [a]}}}", ["greedy.sources: expected `all` or a list of task names"]),
        ("network: resnet", ["line 2, network: expected one of flexcare, m3h, shared", "'resnet'"]),
        ("training: {epoch: 3}", ["line 2, training.epoch: unknown key. Did you mean epochs?", "batch_size"]),
        ("training: {epochs: many}", ["training.epochs:", "integer", "'many'"]),
        ("training: {epochs: 0}", ["training.epochs: expected a whole number from 1 to 100000", "got 0"]),
        ("training: 3", ["training: expected settings of the network"]),
        ("design: exhaustive", ["line 2, design: no such design: 'exhaustive'", "Write `exact`, `pairs`, `sized: 3`"]),
        ("design: sized", ["design: expected a whole number of at least 1 after `sized:`, got nothing"]),
        ("design: {sampled: {sliced: perhaps}}", ["design.sampled.sliced: expected true or false", "got 'perhaps'"]),
        (
            "design: {sampled: {stop: {overlap: 2}}}",
            ["design.sampled.stop.overlap: expected a number above 0", "got 2"],
        ),
        ("design: {sampled: {stop: {topk: 2}}}", ["unknown key. Did you mean top_k?"]),
        ("design: {sampled: {n: 9, stop: {}}}", ["design.sampled.n: stands alone, but `stop` is given too"]),
        ("design: {sampled: 1.5}", ["design: expected a whole number", "got 1.5"]),
        ("design: {exact: null, sized: 2}", ["design: expected one design"]),
        (
            "design: {greedy: {beam: 0}}",
            ["line 2, design.greedy.beam: expected a whole number from 1 to 1000", "got 0"],
        ),
        ("design: {greedy: {beem: 1}}", ["design.greedy.beem: unknown key. Did you mean beam?", "max_size"]),
        ("design: {greedy: {rule: best}}", ["design.greedy.rule: expected lower_bound or paper", "'best'"]),
        ("design: {greedy: {confidence: 95}}", ["design.greedy.confidence: expected a number between 0 and 1"]),
        ("design: {greedy: {tolerance: -1}}", ["design.greedy.tolerance: expected a number of at least 0", "got -1"]),
        ("design: {surrogate: {round: 3}}", ["design.surrogate.round: unknown key. Did you mean rounds?"]),
        ("design: {surrogate: {max_size: 1}}", ["design.surrogate.max_size: expected a whole number from 2 to 1000"]),
        ("tuning: 3", ["line 2, tuning: expected scope, space, sampler and trials, got 3"]),
        ("tuning: {spaces: 1}", ["tuning.spaces: unknown key. Did you mean space?"]),
        ("tuning: {space: {rate: [1]}}", ["line 2, tuning.space.rate: unknown key. Did you mean", "learning_rate"]),
        ("tuning: {space: {learning_rate: 1e-4}}", ["tuning.space.learning_rate: expected a list of values or"]),
        ("tuning: {space: {alpha: {low: a, high: 1}}}", ["tuning.space.alpha: expected a list of values or {low: 1"]),
        ("tuning: {space: {learning_rate: []}}", ["tuning.space.learning_rate: expected one or more distinct values"]),
        ("tuning: {space: {batch_size: [256, 256]}}", ["expected one or more distinct values, got [256, 256]"]),
        (
            "tuning: {space: {batch_size: [256, 0]}}",
            ["tuning.space.batch_size: expected a whole number from 2 to 10000000"],
        ),
        ("tuning: {space: {batch_size: [true]}}", ["tuning.space.batch_size: expected a number or a word"]),
        ("tuning: {trials: 3}", ["tuning.trials: goes with `sampler: optuna`"]),
        ("tuning: {scope: each}", ["tuning.scope: expected global (one choice for the search) or per_subset"]),
        ("tuning: {scope: per_subset, sampler: optuna}", ["tuning.sampler: with `scope: per_subset` every subset is"]),
        ("tuning: {space: {alpha: {low: 0, high: 1}}}", ["tuning.space.alpha: a grid needs a list of values"]),
        (
            "tuning: {sampler: optuna, space: {alpha: {low: 1, high: 1}}}",
            ["tuning.space.alpha: expected low below high, got 1 and 1."],
        ),
        (
            "tuning: {sampler: optuna, space: {alpha: {low: 0, high: 1, log: true}}}",
            ["tuning.space.alpha: expected a low above 0 with `log: true`, got 0"],
        ),
        ("tuning: {sampler: optuna, space: {width: {low: 1.5, high: 4}}}", ["tuning.space.width: ", "integer"]),
        ("blocks: 0", ["blocks: expected a whole number from 1 to 10000, got 0"]),
        ("blocks: 2\nseeds: [1]", ["blocks: stands alone"]),
        (f"folds: [0, 1]\nseeds: {list(range(5001))}", ["line 3, seeds: seeds and folds make 10002 blocks"]),
        ("resources: {gpu: 1}", ["line 2, resources.gpu: unknown key. Did you mean gpus?"]),
        ("tracking_uri: http://mlflow:5000/?token=abc", ["tracking_uri: ", "may hold no password or key"]),
        ("address: ray://me:word@head:10001", ["address: ", "RAY_AUTH_TOKEN"]),
        ("resources: {cpus: .inf}", ["resources.cpus: expected a number above 0 and up to 10000", "got inf"]),
        ("resources: {cpus: .nan}", ["resources.cpus: expected a number above 0"]),
        ("resources: {gpus: 1e9}", ["resources.gpus: expected a number from 0 to 1000"]),
        (f"resources: {{workers: {10**20}}}", ["resources.workers: expected a whole number from 0 to 100000"]),
        ("resources: {time_limit: .inf}", ["resources.time_limit: expected a number above 0 and up to"]),
        ("blocks: 1000000", ["blocks: expected a whole number from 1 to 10000, got 1000000"]),
        (f"design: {{greedy: {{beam: {10**30}}}}}", ["design.greedy.beam: expected a whole number from 1 to 1000"]),
        ("design: {greedy: {max_size: 1000000}}", ["max_size: expected a whole number from 2 to 1000"]),
        ("design: {sampled: 1000000000}", ["expected a whole number from 1 to 1000000"]),
        ("design: {sampled: {stop: {max_subsets: 10000000}}}", ["stop.max_subsets: expected a whole number from 1"]),
        ("design: {surrogate: {rounds: 1000000}}", ["rounds: expected a whole number from 0 to 10000"]),
        ("design: {surrogate: {batch: 1000000}}", ["batch: expected a whole number from 1 to 10000"]),
        ("capacity: 10000000000", ["capacity: expected a whole number from 1 to 1000000"]),
        ("device: cuda:99999999999999999999", ["device: expected auto, cpu, cuda or cuda:0 to cuda:99"]),
        ("training: {replicates: 1000000000000}", ["training.replicates: expected a whole number from 0 to 100000"]),
        ("training: {width: 1000000000}", ["training.width: expected a whole number from 1 to 16384"]),
        ("training: {epochs: 1000000000}", ["training.epochs: expected a whole number from 1 to 100000"]),
        ("training: {batch_size: 100000000000}", ["training.batch_size: expected a whole number from 2 to"]),
        ("network: flexcare\ntraining: {layers: 100000}", ["training.layers: expected a whole number from 1 to 1000"]),
        ("network: flexcare\ntraining: {experts: 100000}", ["training.experts: expected a whole number from 1"]),
        ("network: flexcare\ntraining: {hidden: 1000000}", ["training.hidden: expected a whole number from 1"]),
        ("tuning: {space: {width: [8, 1000000000]}}", ["tuning.space.width: expected a whole number from 1 to 16384"]),
        ("tuning: {sampler: optuna, trials: 1000000}", ["tuning.trials: expected a whole number from 1 to 1000"]),
        (
            "tuning: {sampler: optuna, space: {learning_rate: {low: 1e-4, high: .inf}}}",
            ["learning_rate: expected a list of values or {low: 1, high: 2, log: true}"],
        ),
        ("resources: {cpus: 0}", ["resources.cpus: expected a number above 0", "got 0"]),
        ("capacity: lots", ["capacity: expected a whole number", "'lots'"]),
        ("device: gpu", ["device: expected auto, cpu, cuda or cuda:0 to cuda:99, got 'gpu'"]),
        ("name: a/b", ["name: expected a name of up to 100 letters", "'a/b'"]),
        ("tracking_uri: here", ["tracking_uri: expected an MLflow URI", "'here'"]),
        ("tracking_uri: https://me:word@host", ["tracking_uri: ", "may hold no password"]),
        ("cohort: twice", ["line 2: the key cohort stands twice"]),
        ("tasks: &t [a]\nout: *t", ["line 3: aliases"]),
        ("tasks: [a", ["is not valid YAML: line "]),
        ("? [a]\n: b", ["a key must be a word"]),
        ("out: !!python/object/apply:os.getcwd []", ["is not valid YAML", "python/object"]),
    ],
)
def test_every_error_says_where_what_and_what_next(tmp_path: Path, line: str, words: list[str]) -> None:
    message = refusal(tmp_path, f"cohort: support2\n{line}\n")
    for word in words:
        assert word in message
    assert "word@host" not in message


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "seed: 1\ndesign: {sized: 0}\ntraining: {epoch: 1, alpha: x}\nnetwork: m3h\n")
    for place in ("seed: ", "design: ", "training.epoch: ", "training.alpha: ", "cohort: "):
        assert place in message


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "3\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "expected a mapping of settings" in refusal(tmp_path, text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"absent\.yaml: cannot be read: No such file"):
        config.load(tmp_path / "absent.yaml")
    with pytest.raises(BadInput, match=r"got a folder\. Name a search file"):
        config.load(tmp_path)
    (tmp_path / "cohort.yaml").touch()
    with pytest.raises(BadInput, match="It holds a cohort: write the line `cohort: "):
        config.load(tmp_path)
    (tmp_path / "search.yaml").touch()
    with pytest.raises(BadInput, match=r"tim-search run \S+search\.yaml --out "):
        config.load(tmp_path)
    (tmp_path / "stays.csv").write_text("id,died\n1,0\n")
    with pytest.raises(BadInput, match=r"tim-search cohort init \S+stays\.csv"):
        config.load(tmp_path / "stays.csv")
    with pytest.raises(BadInput, match="got an empty file"):
        config.load(tmp_path / "search.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="expected UTF-8 text"):
        config.load(tmp_path / "binary.yaml")


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    search = config.load(write(tmp_path, "cohort: support2\ntraining: {learning_rate: 1e-4}\nname: 2024-01-01\n"))
    assert search.training == {"learning_rate": 1e-4}
    assert search.name == "2024-01-01"


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_the_reader_fall_over(text: str) -> None:
    try:
        raw, _ = gate.parse(text)
    except gate.NotYaml:
        return
    if isinstance(raw, dict) and "cohort" not in raw:
        assert findings(raw)


@given(
    st.dictionaries(
        st.sampled_from(sorted(config.SearchFile.model_fields)),
        st.recursive(
            st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None)
def test_no_value_makes_the_checker_fall_over(raw: dict[str, Any]) -> None:
    found = findings(raw)
    assert all(finding.place and finding.problem for finding in found)
    assert found or "cohort" in raw


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tasks": ["hospdeath"]}, ["tasks: no such task: 'hospdeath'.", "Did you mean hospdead?"]),
        ({"tasks": SIX, "design": {"sized": 7}}, ["design.sized: the search has 6 tasks, got 7."]),
        (
            {"tasks": SIX, "design": {"sampled": 128}},
            ["7 tasks, the control among them, have 127 subsets, got 128.", "Use `exact`."],
        ),
        (
            {"tasks": SIX, "design": {"sampled": {"stop": {"max_subsets": 64}, "control": False}}},
            ["6 tasks have 63 subsets, got 64.", "Use `exact`."],
        ),
        (
            {"tasks": SIX, "design": {"greedy": {"sources": ["dead_60d"]}}},
            ["design.greedy.sources: no such task: 'dead_60d'."],
        ),
        ({"folds": [0, 99]}, ["folds: expected numbers from 0 to ", "got [99]"]),
    ],
)
def test_what_does_not_fit_the_cohort(fields: dict[str, Any], words: list[str]) -> None:
    message = misfit(**fields)
    for word in words:
        assert word in message


def test_a_cohort_that_is_not_there(tmp_path: Path) -> None:
    search = config.load(write(tmp_path, "cohort: nowhere\n"))
    with pytest.raises(BadInput, match="nowhere"):
        config.resolve(search)
    assert [finding for finding in config.check(tmp_path / "search.yaml") if finding.severity == "error"]


def test_check_finds_nothing_wrong_with_a_good_file(tmp_path: Path) -> None:
    findings = config.check(write(tmp_path, "cohort: support2\n"))
    assert [finding for finding in findings if finding.severity == "error"] == []
    wrong = config.check(write(tmp_path, "cohort: support2\ntasks: [hospdeath]\n"))
    assert any("hospdeath" in finding.problem for finding in wrong)


@pytest.mark.parametrize("name", ["a?b", "a#b", "100%"])
def test_a_folder_whose_path_mlflow_takes_for_another_one(name: str, tmp_path: Path) -> None:
    search = config.SearchFile(cohort="support2", tasks=tuple(SIX))
    with pytest.raises(BadInput, match=f"{re.escape(name)}.*Name another output folder with --out"):
        config.resolve(search, tmp_path / name)
    elsewhere = f"sqlite:///{tmp_path}/me@home/mlflow.db"
    search = config.SearchFile(cohort="support2", tasks=tuple(SIX), tracking_uri=elsewhere)
    assert config.resolve(search, tmp_path / name).tracking_uri == elsewhere


def test_resolve_fixes_what_the_file_leaves_open(tmp_path: Path) -> None:
    search = config.SearchFile(cohort="support2", tasks=tuple(SIX))
    found = config.resolve(search, tmp_path / "out")
    assert set(found.tasks) == set(SIX)
    assert found.design == {"kind": "exact"}
    assert len(found.plan.subsets) == 63
    assert found.blocks == ((0, 0), (1, 1))
    assert found.ledger == tmp_path / "out" / "ledger"
    assert found.tracking_uri == f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"
    assert found.capacity == 16
    assert found.context.settings == found.settings.text


def test_a_sample_too_small_for_tests_is_told_of() -> None:
    few, enough = (
        config.resolve(config.SearchFile(cohort="support2", design={"sampled": n}))
        for n in (20, 60)  # type: ignore[arg-type]
    )
    assert "below 17 (tasks + 4)" in (forecast.too_few(few) or "")
    assert "`sampled: 34` or more" in (forecast.too_few(few) or "")
    assert forecast.too_few(enough) is None
    three = {"cohort": "support2", "tasks": ("hospdead", "dzclass", "slos_log")}
    told = forecast.too_few(config.resolve(config.SearchFile(**three, design={"sampled": {"n": 6, "control": False}})))
    assert "There are 7 subsets in all: write `design: exact`" in (told or "")
    pairs = config.resolve(config.SearchFile(cohort="support2", design={"sized": 2}))  # type: ignore[arg-type]
    assert forecast.too_few(pairs) is None


def test_a_task_that_cannot_be_scored_stops_only_the_searches_that_have_it(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    frame = pd.DataFrame({"id": np.arange(120), "labs__a": dice.normal(size=120), "labs__b": dice.normal(size=120)})
    frame = frame.assign(died=np.arange(120) % 2, icu=np.arange(120) % 3 == 0, rare=np.arange(120) == 7)
    frame.to_parquet(tmp_path / "samples.parquet", index=False)
    (tmp_path / "cohort.yaml").write_text(
        "{format: 1, name: ward, sample_id: id, patient_id: id, stratify: died, modalities: {labs: {file: "
        "samples.parquet, prefix: labs__}}, tasks: {died: {kind: binary}, icu: {kind: binary}, rare: {kind: binary}}}"
    )
    whole = write(tmp_path, f"cohort: {tmp_path}\n")
    assert [finding.place for finding in config.check(whole)] == ["tasks.rare"], "one finding for all folds"
    with pytest.raises(BadInput, match="cannot be scored there"):
        config.resolve(config.load(whole))
    part = write(tmp_path, f"cohort: {tmp_path}\ntasks: [died, icu]\n")
    assert [finding for finding in config.check(part) if finding.severity == "error"] == []
    assert tuple(config.resolve(config.load(part)).tasks) == ("died", "icu")
    # A model of such a search is extended on the same cohort.
    assert "icu" in extension._open(None, str(tmp_path), ("died", "icu")).tasks
    with pytest.raises(BadInput, match="cannot be scored there"):
        extension._open(None, str(tmp_path), ("died", "rare"))


def test_the_default_design_follows_the_number_of_tasks() -> None:
    all_tasks = config.resolve(config.SearchFile(cohort="support2"))
    assert all_tasks.design == {
        "kind": "sampled",
        "n": 16 * 13,
        "seed": 0,
        "sliced": True,
        "control": "hospdead_permuted",
    }
    assert len(set(all_tasks.plan.subsets)) == 208
    assert all_tasks.blocks == tuple((block, block % 5) for block in range(10)), "blocks of 16 subsets or more"
    assert len(all_tasks.plan.units(all_tasks.blocks)) == 208
    assert list(all_tasks.tasks)[-1] == "hospdead_permuted"
    assert "hospdead_permuted" not in all_tasks.sources
    without = config.resolve(config.SearchFile(cohort="support2", design={"sampled": {"control": False}}))
    assert (without.design["n"], without.design.get("control")) == (192, None)
    assert len(without.tasks) == 12
    assert without.context != all_tasks.context, "scores with and without a control do not compare"
    assert without.context.columns == all_tasks.context.columns


def test_a_stopping_rule_of_a_sampled_design() -> None:
    stop = {"top_k": 2, "max_subsets": 90}
    found = config.resolve(
        config.SearchFile(cohort="support2", tasks=SIX, design={"sampled": {"stop": stop}}, blocks=3)
    )
    assert found.design["stop"] == {"top_k": 2, "overlap": 0.9, "false_sign": 0.05}
    assert (found.design["n"], len(found.blocks)) == (90, 3)
    assert found.plan.sizes == [28, 42, 63, 90]
    assert found.plan.control == "hospdead_permuted"
    open_end = config.resolve(config.SearchFile(cohort="support2", tasks=SIX, design={"sampled": {"stop": {}}}))
    assert open_end.design["n"] == 127, "64 for each task, but there are no more subsets"


@pytest.mark.parametrize(
    ("sampled", "blocks"),
    [
        ({"n": 60}, 5),
        ({"n": 320}, 20),
        ({"n": 250}, 15),
        ({"n": 4000}, 60),
        ({"n": 320, "sliced": False}, 5),
        ({"stop": {"max_subsets": 160}}, 10),
    ],
)
def test_a_sampled_design_has_blocks_by_its_subsets(sampled: dict[str, Any], blocks: int) -> None:
    found = config.resolve(config.SearchFile(cohort="support2", design={"sampled": sampled}))
    assert found.blocks == tuple((block, block % 5) for block in range(blocks))
    assert found.design.get("fill") == (16 if "stop" in sampled else None)


def test_a_growing_search_goes_on_dealing_subsets_as_it_began(tmp_path: Path) -> None:
    search = config.SearchFile(cohort="support2", tasks=SIX, design={"sampled": {"stop": {"max_subsets": 120}}})
    begun = config.resolve(search, tmp_path)
    search_folder.prepare(begun)
    trained = list(begun.plan.sample.units(begun.blocks))
    assert {unit.seed for unit in trained[:60]} == set(range(5)), "five blocks are filled first"
    for sampled in ({"stop": {"max_subsets": 126}}, {"n": 126}):
        longer = config.SearchFile(cohort="support2", tasks=SIX, design={"sampled": sampled})
        assert list(config.resolve(longer, tmp_path).plan.sample.units(begun.blocks))[:120] == trained
    # One that began before blocks were filled five at a time deals to all of them.
    earlier = Manifest.read(tmp_path)
    earlier.design.pop("fill")
    earlier.write(tmp_path)
    assert "fill" not in config.resolve(config.load(tmp_path / "search.yaml"), tmp_path).design


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({}, ((0, 0), (1, 1))),
        ({"seeds": [3, 4]}, ((3, 0), (4, 0))),
        ({"seeds": [3, 4], "folds": [1, 2]}, ((3, 1), (3, 2), (4, 1), (4, 2))),
        ({"seeds": [3, 3]}, ((3, 0),)),
        ({"blocks": 3}, ((0, 0), (1, 1), (2, 2))),
    ],
)
def test_blocks(fields: dict[str, Any], blocks: tuple[tuple[int, int], ...]) -> None:
    assert config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",), **fields)).blocks == blocks


def test_a_folder_keeps_the_blocks_its_search_began_with(tmp_path: Path) -> None:
    """The default was one block once; a search that was finished then must not become half-trained by it."""
    search = config.SearchFile(cohort="support2", tasks=("hospdead", "dzclass"))
    begun = config.resolve(search.model_copy(update={"blocks": 1}), tmp_path)
    search_folder.prepare(begun)
    again = config.resolve(search, tmp_path)
    assert again.blocks == ((0, 0),)
    search_folder.prepare(again)
    assert config.load(tmp_path / "search.yaml").blocks == 1, "written down, whatever the default will be"
    assert Manifest.read(tmp_path).planned_units == 3
    # Another design, blocks of one's own, and a folder that cannot be read are other matters.
    other = search.model_copy(update={"design": sections.GreedyDesign()})
    assert config.resolve(other, tmp_path).blocks == ((0, 0), (1, 1))
    assert len(config.resolve(search.model_copy(update={"blocks": 3}), tmp_path).blocks) == 3
    (tmp_path / "search.json").write_text("{")
    assert config.resolve(search, tmp_path).blocks == ((0, 0), (1, 1))


def test_pairs_of_seeds_and_folds_stay_in_the_search_file(tmp_path: Path) -> None:
    found = config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",), seeds=(3, 4)), tmp_path)
    search_folder.prepare(found)
    kept = config.load(tmp_path / "search.yaml")
    assert (kept.blocks, kept.seeds) == (None, (3, 4))


def test_blocks_go_round_the_folds() -> None:
    found = config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",), blocks=7))
    n_folds = found.cohort.split.n_folds
    assert found.blocks == tuple((block, block % n_folds) for block in range(7))


def test_settings_change_the_context_and_machines_do_not() -> None:
    def key(**fields: Any) -> str:
        return config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead", "dzclass"), **fields)).context.key

    base = key()
    assert key(training={"epochs": 3}) != base
    assert key(capacity=3, device="cpu", resources={"cpus": 2}, seeds=[5], design={"sized": 1}) == base


@pytest.mark.parametrize(
    "design",
    [
        None,
        "exact",
        {"sized": 2},
        {"sampled": 9},
        "sampled",
        {"sampled": {"stop": {"top_k": 2}}},
        {"greedy": {"sources": ["hospdead"]}},
    ],
)
def test_dump_is_read_back(tmp_path: Path, design: Any) -> None:
    fields = {
        "cohort": "support2",
        "tasks": SIX,
        "design": design,
        "training": {"epochs": 2},
        "out": str(tmp_path / "o"),
    }
    path = write(tmp_path, yaml.safe_dump({key: value for key, value in fields.items() if value is not None}))
    search = config.load(path)
    again = config.load(write(tmp_path, config.dump(search), "again.yaml"))
    assert again == search
    assert config.resolve(again).context == config.resolve(search).context


def test_a_tuning_section_is_the_papers_unless_told_otherwise(tmp_path: Path) -> None:
    for text in ("tuning:", "tuning: {}"):
        search = config.load(write(tmp_path, f"cohort: support2\ntasks: [hospdead, dnr_later]\n{text}\n"))
        assert config.load(write(tmp_path, config.dump(search))) == search
        found = config.resolve(search, tmp_path / "out")
        assert found.awaits_tuning
        study = config.study(found)
        assert study.grid() == [
            {"batch_size": batch, "learning_rate": rate} for batch in (256, 512) for rate in (1e-4, 3e-4)
        ]
        assert study.subsets == (("hospdead",), ("dnr_later",), ("dnr_later", "hospdead"))
        assert (study.seed, study.folds, study.trials) == (0, (0, 1, 2, 3, 4), 4)
    untuned = config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",)), tmp_path / "out")
    assert not untuned.awaits_tuning


def test_a_kept_choice_is_part_of_the_context(tmp_path: Path) -> None:
    """As long as the section, the settings beside it and the tasks are those it was made with."""
    text = "cohort: support2\ntasks: [hospdead, dnr_later]\nblocks: 2\ntuning: {space: {batch_size: [64, 128]}}\n"
    before = config.resolve(config.load(write(tmp_path, text)), tmp_path / "out")
    study = config.study(before)
    skills = {(members, fold, task): 0.1 for members in study.subsets for fold in study.folds for task in members}
    choices.write(tmp_path / "out", study, [choices.Trial({"batch_size": 128}, skills)])
    found = config.resolve(config.load(write(tmp_path, text)), tmp_path / "out")
    assert (found.settings.batch_size, found.choice, found.awaits_tuning) == (128, {"batch_size": 128}, False)
    assert found.context == study.context_of({"batch_size": 128})
    assert found.context.key != before.context.key
    assert config.study(found) == study
    for other in (
        text.replace("128", "32"),
        text.replace("[hospdead, dnr_later]", "[hospdead]"),
        text + "training: {epochs: 3}\n",
    ):
        assert config.resolve(config.load(write(tmp_path, other)), tmp_path / "out").awaits_tuning


def test_settings_of_its_own_for_every_subset_are_part_of_the_context(tmp_path: Path) -> None:
    text = "cohort: support2\ntasks: [hospdead, dnr_later]\ntuning: {scope: per_subset}\n"
    search = config.load(write(tmp_path, text))
    assert config.load(write(tmp_path, config.dump(search))) == search
    found = config.resolve(search, tmp_path / "out")
    assert found.own is not None
    assert not found.awaits_tuning
    assert found.own.values == tuple(
        {"batch_size": batch, "learning_rate": rate} for batch in (256, 512) for rate in (0.0001, 0.0003)
    )
    assert found.blocks == found.own.blocks == tuple((b, b) for b in range(5))  # every fold of the cohort
    plain = config.resolve(config.load(write(tmp_path, text.replace("scope: per_subset", ""))), tmp_path / "out")
    assert plain.own is None
    assert plain.context.key != found.context.key
    one = found.own.context_of(found.own.values[0])
    assert one.settings == dataclasses.replace(found.settings, **found.own.values[0]).text
    # The settings before tuning do not matter where they are tuned; all others do.
    for more, same in (("learning_rate: 1e-2", True), ("epochs: 3", False)):
        other = config.resolve(config.load(write(tmp_path, text + f"training: {{{more}}}\n")), tmp_path / "out")
        assert (other.context == found.context) == same


def test_a_sampled_search_of_tuned_subsets_is_not_sliced(tmp_path: Path) -> None:
    fields = {"tasks": ("hospdead", "dnr_later", "slos_log"), "tuning": {"scope": "per_subset"}}
    found = config.resolve(config.SearchFile(cohort="support2", design={"sampled": 6}, **fields), tmp_path)  # type: ignore[arg-type]
    assert found.design["sliced"] is False
    said = misfit(design={"sampled": {"n": 6, "sliced": True}}, **fields)
    assert "design.sampled.sliced: with `tuning: {scope: per_subset}` every subset is trained in every block" in said
    said = misfit(blocks=1, **fields)
    assert "tuning.scope: with `scope: per_subset` settings are chosen on other folds than the one that scores" in said
    assert "write `blocks: 5`" in said


def test_the_surrogate_is_a_design(tmp_path: Path) -> None:
    text = "cohort: support2\ntasks: [hospdead, dnr_later, slos_log]\ndesign: {surrogate: {rounds: 3, rule: paper}}\n"
    search = config.load(write(tmp_path, text))
    assert config.load(write(tmp_path, config.dump(search))) == search
    found = config.resolve(search, tmp_path)
    assert isinstance(found.plan, Surrogate)
    assert (found.plan.rounds, found.plan.largest) == (3, 3)
    assert found.design["rule"] == "paper"
    assert config.load(write(tmp_path, "cohort: support2\ndesign: surrogate\n")).design == sections.SurrogateDesign()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"out: {'x' * 300}", "line 2, out: The path xxx.*at most 255 are possible. Choose another name."),
        ('out: ""', "line 2, out: expected a path, got the empty text ''. Write one, or leave the line out."),
        ('ledger: " "', "line 2, ledger: expected a path, got the empty text ' '"),
        (f"ledger: {'x' * 300}", "line 2, ledger: The path xxx.*at most 255 are possible"),
        (f"ledger: {'x/' * 3000}", "line 2, ledger: The path x/x.*at most 4,096 are possible"),
        (f"name: {'x' * 300}", "line 2, name: expected a name of up to 100 letters"),
        (
            "tracking_uri: http://host:999999",
            r"line 2, tracking_uri: http://host:999999: expected http\(s\)://host:port",
        ),
        ("tracking_uri: http://[::1:5000/", "line 2, tracking_uri: .*: expected http.*Correct it."),
        ("tracking_uri: http://me:hush@host:99999", "line 2, tracking_uri: http://host:99999: expected"),
    ],
)
def test_names_and_hosts_that_nothing_can_have(tmp_path: Path, line: str, words: str) -> None:
    message = refusal(tmp_path, f"cohort: support2\n{line}\n")
    assert re.search(words, message), message
    assert "hush" not in message


def test_a_cohort_of_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    assert "at most 255 are possible" in refusal(tmp_path, f"cohort: {'x' * 300}\n")
