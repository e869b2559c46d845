"""The benchmark of fused training: its yardstick is right, its figures agree, a failure leaves the rest standing."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import fused, heatmap, rates, sections, solo
from benchmarks.differences import spread, turned
from benchmarks.heatmap import EVALUATION, SOLO, SOLO_TRIPLES, TF32, TOTAL, TRAINING, TRIPLES, Heatmap, Work
from benchmarks.sections import Sections, Skip
from model.data.folds import Rows
from model.networks import m3h
from model.networks.m3h import step_flops
from model.networks.settings import M3HSettings
from model.sources.synthetic import haim_like
from model.training.fitting import fit_pack
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, Subset, Unit

SETTINGS = M3HSettings(width=8, batch_size=64, epochs=2, precision="float64", learning_rate=3e-3)
SUBSETS: tuple[Subset, ...] = (("ill",), ("group",), ("cost", "ill", "ward"), ("group", "rare", "stage"))
CPU = torch.device("cpu")


def made(members: Subset, rows: int = 150, missing: float = 0.3) -> tuple[solo.SoloM3H, Rows]:
    fold = make_fold(rows=rows, missing=missing)
    torch.manual_seed(3)
    return solo.SoloM3H(members, TASKS, fold, SETTINGS).double(), fold.train


@pytest.mark.parametrize("members", SUBSETS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_masks_and_gathered_rows_give_one_loss_and_gradient(members: Subset, missing: float) -> None:
    network, rows = made(members, missing=missing)
    assert (rows.present is None) == (missing == 0)
    found = []
    for masked in (False, True):
        network.zero_grad()
        loss = network.loss(rows, masked=masked)
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in network.parameters() if value.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-10)


def test_the_masked_loss_is_a_number_where_no_row_has_both_modalities() -> None:
    network, rows = made(("ill",))
    alone = torch.zeros(len(rows), len(rows.inputs), dtype=torch.bool)
    alone[:, 0] = True
    loss = network.loss(replace(rows, present=alone), masked=True)
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize("members", SUBSETS)
@pytest.mark.parametrize("masked", [False, True])
def test_what_stands_in_an_absent_modality_reaches_no_loss(members: Subset, masked: bool) -> None:
    network, rows = made(members)
    assert rows.present is not None
    filled = tuple(
        torch.where(rows.present[:, m : m + 1], x, torch.full_like(x, 7.0)) for m, x in enumerate(rows.inputs)
    )
    expected = network.loss(rows, masked=masked)
    torch.testing.assert_close(network.loss(replace(rows, inputs=filled), masked=masked), expected)
    moved = tuple(x + 0.1 for x in rows.inputs)
    assert abs(network.loss(replace(rows, inputs=moved), masked=masked) - expected) > 1e-6


@pytest.mark.parametrize("rows", [150, 128, 40], ids=["smaller last", "all full", "one minibatch"])
def test_replayed_steps_train_as_the_plain_loop(rows: int) -> None:
    fold = make_fold(rows=rows)
    networks = [
        list(solo.training(("group", "ill", "ward"), TASKS, fold, SETTINGS, **how))[-1]
        for how in ({"fused_adam": True}, {"graph": True})
    ]
    begun = next(solo.training(("group", "ill", "ward"), TASKS, fold, SETTINGS))
    one, other, start = (torch.cat([value.flatten() for value in n.parameters()]) for n in (*networks, begun))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    assert (one - start).abs().max() > 1e-3


def test_the_warm_up_of_a_capture_leaves_no_trace() -> None:
    network, rows = made(("ill", "stay"))
    start = [value.detach().clone() for value in network.parameters()]
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    network.loss(rows).backward()
    optimiser.step()
    solo._begin_again(network, start, optimiser)
    assert all(torch.equal(value, before) for value, before in zip(network.parameters(), start, strict=True))
    assert not any(value.any() for state in optimiser.state.values() for value in state.values())


def test_a_capture_is_warmed_up_aside_and_begins_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol of PyTorch's notes on CUDA graphs, with recorders in the places of streams and graphs."""
    told: list[str] = []

    class Stream:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def inside(of: Any) -> Iterator[None]:
        told.append("begin")
        yield
        told.append("end")

    graph = SimpleNamespace(replay=lambda: told.append("replayed"))
    for name, fake in {
        "Stream": Stream,
        "current_stream": lambda: Stream("main"),
        "stream": inside,
        "graph": inside,
        "CUDAGraph": lambda: graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    value = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([value], lr=0.1)

    def step() -> None:
        told.append("step, no gradient" if value.grad is None else "step")
        value.sum().backward()

    solo._captured(step, optimiser)()
    aside = ["side waits for main", "begin", "step, no gradient", "step", "step", "end", "main waits for side"]
    assert told == [*aside, "begin", "step, no gradient", "end", "replayed"]


def test_turned_minibatches_hold_the_same_rows_backwards() -> None:
    fold = make_fold()
    order = torch.randperm(len(fold.train), generator=torch.Generator().manual_seed(1))
    plain, back = (one.train.take(order).split(64) for one in (fold, turned(fold)))
    assert [len(part) for part in back] == [64, 64, 22]
    for part, other in zip(plain, back, strict=True):
        assert torch.equal(part.inputs[1].flip(0), other.inputs[1])
        assert torch.equal(part.targets.flip(1), other.targets)


def test_the_spread_of_scores() -> None:
    one = {(("a", "b"), "a"): 0.5, (("a", "b"), "b"): 0.25, (("b",), "b"): float("nan")}
    two = {**one, (("a", "b"), "b"): 0.75}
    assert spread(one, two) == {"max": 0.5, "sd": 0.25, "scores": 2}
    with pytest.raises(RuntimeError, match="none of the 3 scores"):
        spread(one, dict.fromkeys(one, float("nan")))


def test_the_floor_is_the_larger_of_two_terms() -> None:
    fold = make_fold(rows=150)
    settings = replace(SETTINGS, batch_size=64)
    least = partial(rates.floor, {("ill", "stay"): 3, ("ill",): 2}, TASKS, fold, settings)

    def flops(members: Subset, rows: int) -> float:
        return step_flops(members, TASKS, fold, replace(settings, batch_size=rows))

    flop = sum(count * 2 * (2 * flops(s, 64) + flops(s, 22)) for s, count in ((("ill", "stay"), 3), (("ill",), 2)))
    pair, alone = (
        sum(v.numel() for v in fit_pack(Pack((Unit(s, 0, 0),)), TASKS, fold, settings, m3h).values.values())
        for s in (("ill", "stay"), ("ill",))
    )
    moved = 32 * 2 * 3 * (3 * pair + 2 * alone)
    found = least(flops_a_second=1e6, bytes_a_second=1e3, streaming=True)
    assert found["product_seconds"] == pytest.approx(flop / 1e6)
    assert found["seconds"] == found["streaming_seconds"] == pytest.approx(moved / 1e3)
    assert least(flops_a_second=1e6, bytes_a_second=1e3, streaming=False)["seconds"] == found["product_seconds"]
    assert least(flops_a_second=1.0, bytes_a_second=1e9, streaming=True)["seconds"] == pytest.approx(flop)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Work:
    """A cohort of a few hundred samples, and rates from small products and copies."""
    monkeypatch.setattr(rates, "product_rate", partial(rates.product_rate, size=128))
    cohort, _ = haim_like(400, 200, widths=(3, 5, 6, 7), n_binary=2, n_clusters=2, n_classes=3)
    return Work("small", cohort, M3HSettings(width=8, batch_size=128, epochs=2, replicates=0), solo_steps=4, sample=6)


def measured(work: Work, out: Path) -> tuple[Sections, dict[str, Any]]:
    found = Sections({"minutes": 1}, 1.0, out)
    Heatmap(work, CPU, found).run()
    return found, json.loads(out.read_text())


@pytest.mark.slow
def test_the_figures_of_a_heatmap_agree(small: Work, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, said = measured(small, tmp_path / "figures.json")
    assert not found.failed
    rows, parts = {row["name"]: row for row in said["rows"]}, said["sections"]
    assert {part["status"] for part in parts.values()} == {"ok"}

    def gap(section: str) -> float:
        (only,) = parts[section]["differences"].values()
        return only["max"]

    for row in rows.values():
        if row["name"] != EVALUATION:
            assert row["ratio"] * row["time"] == pytest.approx(rows[row["base"]]["time"])
            assert row["share"] * row["time"] == pytest.approx(row["floor"])
    assert rows[SOLO]["ratio"] == rows[SOLO_TRIPLES]["ratio"] == 1
    assert {row["name"] for row in rows.values() if row["extrapolated"]} == {
        *heatmap.VARIANTS,
        heatmap.GRAPH_SHARED,
        SOLO_TRIPLES,
        TRIPLES,
    }

    # Five tasks, one of them clustering: 4 + 1 alone, 6 + 4 pairs, 4 + 6 triples.
    assert "no graph on a CPU" in rows[heatmap.GRAPH]["why"]
    counts = {(2, 0): 6, (2, 1): 4, (1, 0): 4, (1, 1): 1}
    for name in heatmap.VARIANTS:
        shapes = parts[name]["shapes"]
        assert {(one["tasks"], one["clustering"]): one["count"] for one in shapes} == counts
        total = sum(one["count"] * (one["start_seconds"] + 2 * one["epoch_seconds"]) for one in shapes)
        assert rows[name]["time"] == pytest.approx(total)
    packs = parts["fused float32"]["packs"]
    assert {(one["tasks"], one["clustering"]): one["units"] for one in packs} == counts
    assert rows[TRAINING]["time"] == pytest.approx(sum(one["training_seconds"] for one in packs))
    assert rows[TOTAL]["time"] == pytest.approx(rows[TRAINING]["time"] + rows[EVALUATION]["time"])
    tf32 = parts["fused TF32"]
    assert rows[heatmap.TF32_TOTAL]["time"] == pytest.approx(tf32["training_seconds"] + tf32["evaluation_seconds"])
    assert gap("scores, graphs") == 0  # on a CPU nothing is replayed
    for training, total in heatmap.REPLAYED.values():
        assert rows[total]["time"] > rows[training]["time"]
        assert "no graph on a CPU" in rows[total]["why"]
    triples = parts["up to 3 tasks"]
    assert {(one["clustering"], one["count"], one["units"]) for one in triples["packs"]} == {(0, 4, 4), (1, 6, 6)}
    extra = sum(one["seconds"] for one in triples["packs"])
    assert rows[TRIPLES]["time"] == pytest.approx(rows[TRAINING]["time"] + extra)
    assert triples["subsets"] == 25

    floors = parts["machine rates"]["floors"]
    for name, floor in floors.items():
        assert floor["seconds"] == floor["product_seconds"] == rows[name]["time"]
        assert floor["product_seconds"] == pytest.approx(floor["flop"] / floor["flop_a_second"])
        assert floor["streaming_seconds"] == pytest.approx(floor["bytes"] / floor["bytes_a_second"])
    assert 1.5 < floors[heatmap.FLOOR_TRIPLES]["flop"] / floors[heatmap.FLOOR]["flop"] < 25 / 15 * 1.5

    assert gap("scores, float64") < 1e-8
    assert gap("scores, other seed") > 10 * gap("scores, float64")
    # Three of each shape, so that packs are compared; of the clustering task alone there is one.
    assert parts["scores, other seed"]["subsets"] == parts["scores, float64"]["subsets"] == 10
    found.show()
    lines = capsys.readouterr().out.strip().splitlines()
    assert "* extrapolated: solo rows" in " ".join(lines[-2:])
    assert sum(line.startswith("score difference") for line in lines) == 6


@pytest.mark.slow
def test_a_sweep_that_does_not_fit_goes_on_with_smaller_packs(
    small: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = heatmap.fit_pack

    def narrow(pack: Any, *rest: Any) -> Any:
        if len(pack.units) > 4:
            raise torch.OutOfMemoryError("no room")
        return real(pack, *rest)

    monkeypatch.setattr(heatmap, "fit_pack", narrow)
    quick = replace(small, settings=replace(small.settings, epochs=1), sample=4)
    _, said = measured(quick, tmp_path / "figures.json")
    part = said["sections"]["fused float32"]
    assert part["did_not_fit"] == [16, 8]
    assert part["capacity"] == 4
    assert max(pack["units"] for pack in part["packs"]) <= 4
    (row,) = (row for row in said["rows"] if row["name"] == TF32)
    assert row["time"] == pytest.approx(
        sum(pack["training_seconds"] for pack in said["sections"]["fused TF32"]["packs"])
    )
    assert row["floor"] == said["sections"]["machine rates"]["floors"][heatmap.FLOOR_TF32]["seconds"]
    assert said["sections"]["scores, TF32"]["differences"]["fused, TF32 against float32"]["scores"] > 4
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.slow
def test_a_failure_of_fused_training_is_a_row_and_the_status(
    small: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*rest: Any) -> Any:
        raise RuntimeError("CUDA error:\n  something [odd]")

    monkeypatch.setattr(heatmap, "fit_pack", broken)
    monkeypatch.setattr(fused, "haim", lambda device, quick: small)
    out = tmp_path / "figures.json"
    assert fused.main(["--work", "haim", "--quick", "--out", str(out)]) == 1
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows[TRAINING]["status"] == "failed"
    assert rows[TRAINING]["why"] == "RuntimeError: CUDA error: something [odd]"
    assert rows[TRIPLES]["status"] == "skipped"
    assert rows[SOLO]["status"] == "ok"
    assert "something [odd]" in " ".join(capsys.readouterr().out.split())


def test_sections_that_come_too_late_are_skipped(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    late = Sections({}, 0.0, out)
    late.run("one", lambda: pytest.fail("it ran"), ("row",), fused=True)
    assert not late.failed
    said = json.loads(out.read_text())
    assert said["sections"]["one"]["status"] == said["rows"][0]["status"] == "skipped"
    assert "0 minutes (--minutes)" in said["rows"][0]["why"]


def test_a_skip_is_no_failure_and_figures_are_on_disk_after_each_section(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    found = Sections({"unit": "s"}, 1.0, out)

    def skips() -> dict[str, Any]:
        raise Skip("not here")

    def measures() -> dict[str, Any]:
        found.add("slow", 4.0)
        found.add("quick", 2.0, base="slow", floor=1.0)
        return {"more": 5}

    found.run("one", skips, ("row",), fused=True)
    assert [row["why"] for row in json.loads(out.read_text())["rows"]] == ["not here"]
    found.run("two", measures, ("slow", "quick"))
    said = json.loads(out.read_text())
    assert not found.failed
    assert said["sections"]["two"]["more"] == 5
    assert [(row["ratio"], row["share"]) for row in said["rows"]] == [(None, None), (None, None), (2.0, 0.5)]


@pytest.mark.slow
def test_a_graph_that_trains_otherwise_is_no_figure(
    small: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = solo._replayed
    monkeypatch.setattr(solo, "_replayed", lambda step, *rest: real(lambda rows: None, *rest))
    _, said = measured(small, tmp_path / "figures.json")
    (row,) = (row for row in said["rows"] if row["name"] == heatmap.GRAPH)
    assert row["status"] == "failed"
    assert "with replayed steps" in row["why"]


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--work", "haim"], "add --quick"), (["--device", "cuda"], "use --device cpu")]
)
def test_what_cannot_run_here_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        fused.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("work", ["haim", "support2"])
def test_it_runs_without_the_libraries_of_the_search(work: str, tmp_path: Path) -> None:
    blocked = ("ray", "mlflow", "optuna", "pydantic", "matplotlib", "typer", "yaml", "jinja2")
    program = (
        "import runpy, sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "sys.argv[0] = 'fused'\n"
        "runpy.run_module('benchmarks.fused', run_name='__main__')\n"
    )
    # A file, since workers of a pool import the main module again.
    script = tmp_path / "blocked.py"
    script.write_text(
        f"if __name__ == '__main__':\n{''.join('    ' + line + chr(10) for line in program.splitlines())}"
    )
    out = tmp_path / "figures.json"
    root = Path(sections.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, str(script), "--work", work, "--quick", "--out", str(out)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    statuses = {part["status"] for part in json.loads(out.read_text())["sections"].values()}
    assert "failed" not in statuses
