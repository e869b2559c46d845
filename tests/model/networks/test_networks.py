"""Networks by name, the conformance suite put to M3H and to the example network, and the door for one's own code."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from model.networks import flexcare, m3h
from model.networks import registry as networks
from model.networks.contract import Layout, Parameters, layout, n_logits
from model.networks.lifted import Lifted, OwnNetwork
from model.networks.settings import FlexCareSettings, M3HSettings, OwnSettings
from model.sources import synthetic
from model.trained import deployed, final_training
from model.training.fitting import check_supported
from model.training.trainer import TrainingPayload, trainer
from tests.support import ROOT
from tests.support.folds import TASKS, make_fold
from tests.support.network_conformance import NetworkConformance
from tim_search import config
from tim_search.types import FINAL_FOLD, BadInput, Pack, Unit

EXAMPLES = ROOT / "examples"


def example():
    """examples/own_network.py as a module."""
    if "own_network" not in sys.modules:
        found = importlib.util.spec_from_file_location("own_network", EXAMPLES / "own_network.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules["own_network"] = module
        found.loader.exec_module(module)
    return sys.modules["own_network"]


class TestM3H(NetworkConformance):
    network = m3h
    settings = M3HSettings(width=6, epochs=3, batch_size=40, learning_rate=3e-3, precision="float64")

    def own(self, values: Parameters, plan: Layout, member: int, name: str) -> list[Tensor]:
        slot = plan.names[member].index(name)
        return [
            values["attention.token"][member, slot],
            values["task.weight"][member, slot],
            values["head.weight"][member, slot, 0],
            values["head.bias"][member, slot, 0],
        ]

    def shared(self, values: Parameters, member: int) -> list[Tensor]:
        return [
            value[member] for key, value in values.items() if key.startswith(("encoder.", "shared.", "attention.k"))
        ]


class TestFlexCare(NetworkConformance):
    network = flexcare
    settings = FlexCareSettings(
        width=6,
        layers=2,
        heads=2,
        hidden=10,
        experts=3,
        expert_hidden=5,
        epochs=3,
        batch_size=40,
        learning_rate=3e-3,
        stop_share=0.0,
        precision="float64",
    )
    jointly = MappingProxyType({"update": "joint"})

    def own(self, values: Parameters, plan: Layout, member: int, name: str) -> list[Tensor]:
        slot = plan.names[member].index(name)
        used = n_logits(TASKS[name])
        return [
            values["task.token"][member, slot],
            values["head.weight"][member, slot, :used],
            values["head.bias"][member, slot, :used],
        ]

    def shared(self, values: Parameters, member: int) -> list[Tensor]:
        return [
            value[member]
            for key, value in values.items()
            if not key.startswith(("task.", "head.")) and ".norm" not in key
        ]


class TestTheExample(NetworkConformance):
    network = Lifted(example().Gated)
    settings = example().GatedSettings(
        width=6, features=5, epochs=3, batch_size=40, learning_rate=3e-3, precision="float64"
    )


class Normed(OwnNetwork):
    """Breaks the contract: batch normalisation keeps buffers."""

    def __init__(self, widths: tuple[int, ...], settings: OwnSettings) -> None:
        super().__init__(widths, settings)
        self.norm = nn.BatchNorm1d(widths[0])

    def task_part(self) -> nn.Module:
        return nn.Linear(5, 64)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        return torch.stack([part(self.norm(inputs[0])) for part in parts])


class Narrow(OwnNetwork):
    """Breaks the contract: embeddings of another width."""

    def task_part(self) -> nn.Module:
        return nn.Linear(5, 3)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        return torch.stack([part(inputs[0]) for part in parts])


class Dicey(OwnNetwork):
    """Breaks the contract: dropout."""

    def task_part(self) -> nn.Module:
        return nn.Linear(5, 64)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        return nn.functional.dropout(torch.stack([part(inputs[0]) for part in parts]), 0.5)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Normed, r"got the buffers shared\.norm"),
        (Narrow, r"has to return \(1, 40, 64\)"),
        (Dicey, "uses random numbers"),
    ],
    ids=["buffers", "width", "dropout"],
)
def test_a_network_that_breaks_the_contract_is_told(broken: type[OwnNetwork], words: str) -> None:
    fold = make_fold()
    plan = layout([("ill",)], TASKS, fold, torch.device("cpu"))
    network = Lifted(broken)

    def start() -> None:
        values = network.initialise(plan, TASKS, fold, 0, OwnSettings())
        network.forward(values, plan, fold.train.take(torch.arange(40)), OwnSettings())

    with pytest.raises(BadInput, match=words):
        start()


def test_code_of_ones_own_runs_only_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('ran')\n")
    bare = "from model.networks.lifted import OwnNetwork\nclass Bare(OwnNetwork):\n    def task_part(self): ...\n"
    (tmp_path / "bare_network.py").write_text(bare)
    (tmp_path / "search.yaml").write_text("cohort: support2\nnetwork: mine:Net\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="may not run by itself"):
        config.load("search.yaml")
    (finding,) = config.check("search.yaml")
    assert "--allow-code" in str(finding)
    assert "mine" not in sys.modules
    with pytest.raises(SystemExit, match="ran"):
        config.load("search.yaml", allow_code=True)
    for name, words in (
        ("m4h", "expected one of flexcare, m3h, shared"),
        ("nowhere:Net", "cannot be imported"),
        ("pathlib:Nix", "cannot be imported"),
        ("pathlib:Path", "expected a subclass"),
        ("bare_network:Bare", "has no forward"),
    ):
        with pytest.raises(BadInput, match=words):
            networks.find(name, allow_code=True)


def test_scores_are_keyed_by_the_source_of_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (EXAMPLES / "own_network.py").read_text()
    (tmp_path / "keyed_network.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "cohort: support2\ntasks: [ill]\nnetwork: keyed_network:Gated\ntraining: {features: 4}\n"
    (tmp_path / "search.yaml").write_text(text.replace("[ill]", "[hospdead, slos_log]"))
    file = config.load(tmp_path / "search.yaml", allow_code=True)
    with pytest.raises(BadInput, match="--allow-code"):
        config.resolve(file, tmp_path / "out")
    found = config.resolve(file, tmp_path / "out", allow_code=True)
    assert found.context.network.startswith("keyed_network:Gated@")
    assert found.settings.features == 4
    assert '"features":4' in found.context.settings
    assert networks.find(found.context.network, allow_code=True).make.__name__ == "Gated"
    (tmp_path / "keyed_network.py").write_text(source + "\n# changed\n")
    with pytest.raises(BadInput, match="not that of the search"):
        networks.find(found.context.network, allow_code=True)
    assert config.resolve(file, tmp_path / "out", allow_code=True).context.key != found.context.key


def test_an_own_network_trains_scores_and_deploys(tmp_path: Path) -> None:
    example()
    cohort, _ = synthetic.haim_like(400, 300, seed=4, widths=(4, 9, 5, 5), n_binary=2, n_classes=3)
    names = tuple(sorted(name for name, task in cohort.tasks.items() if task.kind != "clustering"))
    with pytest.raises(BadInput, match="is clustering"):
        check_supported(cohort, "own_network:Gated", example().GatedSettings())
    cohort = cohort.for_tasks(names)
    settings = example().GatedSettings(width=8, epochs=3, batch_size=64, learning_rate=3e-3, replicates=2)
    name = networks.identity("own_network:Gated")
    worker = trainer(TrainingPayload(cohort, name, settings, "cpu"))
    result = worker.train(Pack((Unit(names, 0, FINAL_FOLD),)))
    assert {row.task: row.status for row in result.scores if row.primary} == dict.fromkeys(names, "ok")
    assert result.attention == ()
    model = final_training.train(cohort, name, settings, names, names[0], device="cpu")
    expected = {row.task: row.value for row in result.scores if row.primary}
    assert {row.task: pytest.approx(row.value, abs=1e-5) for row in final_training.evaluate(model, cohort)} == expected
    model.save(tmp_path)
    with pytest.raises(BadInput, match="--allow-code"):
        deployed.DeployedModel.load(tmp_path)
    again = deployed.DeployedModel.load(tmp_path, allow_code=True)
    assert again.settings == settings
    assert again.predict(model.example()).equals(model.predict(model.example()))


@dataclasses.dataclass(frozen=True)
class ListedSettings(OwnSettings):
    """A setting that cannot be hashed, as a search file may hold one."""

    scale: dict[str, float] = dataclasses.field(default_factory=dict)


class Scaled(OwnNetwork):
    """Reads it."""

    Settings = ListedSettings

    def __init__(self, widths: tuple[int, ...], settings: ListedSettings) -> None:
        super().__init__(widths, settings)
        self.scale = settings.scale["binary"]

    def task_part(self) -> nn.Module:
        return nn.Linear(5, 6)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        return torch.stack([self.scale * part(inputs[0]) for part in parts])


def test_settings_of_ones_own_may_hold_lists_and_mappings() -> None:
    fold = make_fold()
    plan, network = layout([("ill",)], TASKS, fold, torch.device("cpu")), Lifted(Scaled)
    rows = fold.train.take(torch.arange(40))

    def logits(scale: float) -> Tensor:
        settings = ListedSettings(width=6, scale={"binary": scale})
        values = network.initialise(plan, TASKS, fold, 0, settings)
        return network.forward(values, plan, rows, settings).logits

    assert not torch.equal(logits(1.0), logits(2.0))


def test_settings_of_ones_own_are_checked() -> None:
    with pytest.raises(ValueError, match="width: expected"):
        OwnSettings(width=0)
    assert dataclasses.replace(OwnSettings(), epochs=2).text != OwnSettings().text
