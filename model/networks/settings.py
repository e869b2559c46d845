"""Settings of the networks and their training: plain dataclasses, readable without torch.

A search file's `training:` section is one of these. Every field enters the ledger's context key, so two scores with
different settings are never mixed; what cannot change a score (device, threads, pack size) is therefore no field here.

Fields that came after version 0.1.0 (`_added`) are left out of the text of the settings where they have the value by
which training does what 0.1.0 did. So searches, ledgers and models that 0.1.0 began keep their context keys.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, cast, get_args

from tim_search.types import BadInput, canonical

#: Of parameters and arithmetic. "tf32" is float32 but for matrix products, whose factors a GPU that can rounds to ten
#: bits of mantissa; on other devices it is float32.
Precision: TypeAlias = Literal["float32", "tf32", "float64"]

#: See `model.training.balance`.
Balance: TypeAlias = Literal["equal", "uncertainty", "dwa", "pcgrad", "cagrad", "upgrad"]
#: Those that need the gradient of every task, not of their sum alone.
BY_GRADIENT = ("pcgrad", "cagrad", "upgrad")

# Bounds, far above what anyone trains: a larger number is a slip, and would end in a lack of memory or never.
#: Features of a layer, side of a patch.
MOST_FEATURES = 16_384
#: Layers, experts.
MOST_LAYERS = 1_000
#: Epochs, replicates of a score.
MOST_STEPS = 100_000
#: Rows of a minibatch.
MOST_ROWS = 10_000_000

#: Numbers of a row's inputs from which on rows are not predicted `evaluation_rows` at a time.
LARGE_ROW = 1 << 18


class TrainingSettings(Protocol):
    """What training itself reads of a network's settings."""

    @property
    def update(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def replicates(self) -> int: ...
    @property
    def balance(self) -> Balance: ...
    @property
    def average(self) -> int:
        """Epochs over whose steps the weights are averaged, half of them after `epochs`; 0 keeps the last step's."""
        ...

    @property
    def evaluation_rows(self) -> int:
        """Rows a forward pass without gradients."""
        ...

    @property
    def stop_share(self) -> float:
        """Share of the training patients that chooses the epoch, 0 where the last one is kept."""
        ...

    @property
    def text(self) -> str: ...


def _added(default: Any, *, before: Any) -> Any:
    """A field that came after version 0.1.0.

    Args:
        default: what it is where nothing is said.
        before: the value by which training does what it did before the field was there.
    """
    return field(default=default, metadata={"before": before})


class _Common:
    """What the settings of all networks share beside the fields that `TrainingSettings` names."""

    __slots__ = ()

    #: What differs from the defaults where they make too few updates (`model.networks.length`).
    SMALL_COHORT: ClassVar[Mapping[str, Any]] = {}

    @property
    def without_effect(self) -> frozenset[str]:
        """Fields that came after 0.1.0 and change nothing at the values that the others have."""
        return frozenset()

    @property
    def evaluation_rows(self) -> int:
        """Rows a forward pass without gradients."""
        return 512

    @property
    def text(self) -> str:
        """Canonical JSON, as the ledger's context holds it; see the module on fields that came after 0.1.0."""
        own = cast(Any, self)
        as_before = {
            name
            for name, before in _before(type(own)).items()
            if name in self.without_effect or getattr(own, name) == before
        }
        return canonical({name: value for name, value in dataclasses.asdict(own).items() if name not in as_before})


def _before(settings: type[Any]) -> dict[str, Any]:
    """The fields that came after 0.1.0, and the value by which each does what was done before it."""
    return {f.name: f.metadata["before"] for f in dataclasses.fields(settings) if "before" in f.metadata}


def from_plain(settings: type[Any], plain: Mapping[str, Any]) -> Any:
    """The settings whose `text`, read as JSON, is `plain`; raises TypeError and ValueError where they are none."""
    # A list in JSON was a tuple: settings are values.
    values = settings(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})
    unsaid = json.loads(values.text).keys() - plain.keys()
    return dataclasses.replace(values, **{name: value for name, value in _before(settings).items() if name in unsaid})


@dataclass(frozen=True, slots=True)
class M3HSettings(_Common):
    """M3H and its training (M3H paper, sections 3.1 to 3.5 and 4.3).

    Attributes:
        width: h, features of every embedding; the paper uses multiples of 64.
        alpha: strength of cross-task exploration in the attention (section 4.3: 0.1).
        attention_maximum: what the attention's agreements M are divided by (section 3.4 prints max(M)): "magnitude" is
            the largest |M| of a sample, which is never negative; "signed" is the paper's literal max(M), which turns
            the sign of M where all of it is negative. Either is kept 1e-6 away from zero.
        temperature: of the contrastive loss; the paper does not say, 0.1 is our choice.
        contrastive_weight: w_c of section 3.5 (all weights are 1 there); search files choose less for a small cohort.
        task_weight: w_t of section 3.5, one for all tasks.
        update: "joint" makes one step on the total loss. "in_turn" makes one step for each loss in turn, as section 3.1
            says ("optimizing each individual loss sequentially"), which moves what the loss reaches; "sequential" does
            so too, but Adam's moments move all other parameters on in every step.
        epochs: passes over the training rows (section 4.3: 15).
        batch_size: rows a step (section 4.3: 256 or 512).
        learning_rate: of Adam (section 4.3: 1e-4 or 3e-4).
        rare: a binary task with fewer positives than this share starts from the bias log(n_pos / n_neg) (section 3.2).
        precision: of parameters and arithmetic, see `Precision`.
        replicates: scores under this many patient-bootstrap weightings are returned beside each score.
        average: an even number of epochs over whose steps the weights are averaged; half of them come after the last of
            `epochs`, so that the average stands for a training of `epochs` (docs/networks.md). 0 keeps the last step's.
        balance: "equal" adds up the tasks' losses, "uncertainty" and "dwa" weigh them, "pcgrad", "cagrad" and "upgrad"
            weigh their gradients (docs/networks.md); all but "equal" with `update: joint` alone.
        task_weights: weight of a task's loss, 1 where not named; with `balance: equal` alone.
        input_dropout: share of a row's standardised inputs that a step takes as 0, drawn anew in each step; the others
            are 1 / (1 - share) times as large (Srivastava et al., JMLR 2014). The paper has none; search files choose
            some for a small cohort.
    """

    SMALL_COHORT: ClassVar[Mapping[str, Any]] = {
        "epochs": 6,
        "average": 6,
        "contrastive_weight": 0.1,
        "input_dropout": 0.1,
        "width": 256,
    }

    width: int = 64
    alpha: float = 0.1
    temperature: float = 0.1
    contrastive_weight: float = 1.0
    task_weight: float = 1.0
    update: Literal["joint", "sequential", "in_turn"] = "joint"
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 3e-4
    rare: float = 0.1
    precision: Precision = "float32"
    replicates: int = 50
    attention_maximum: Literal["magnitude", "signed"] = _added("magnitude", before="magnitude")
    average: int = _added(0, before=0)
    balance: Balance = field(default="equal", metadata={"before": "equal"})
    task_weights: dict[str, float] = field(default_factory=dict, metadata={"before": {}})
    input_dropout: float = _added(0.0, before=0.0)

    def __post_init__(self) -> None:
        # Every message names the field, what is allowed and what was given: the search file's reader passes it on.
        rules = (
            ("alpha", self.alpha >= 0, "a number of at least 0"),
            ("temperature", self.temperature >= 0.05, "a number of at least 0.05 (below, float32 underflows)"),
            ("contrastive_weight", self.contrastive_weight >= 0, "a number of at least 0"),
            ("task_weight", self.task_weight > 0, "a number above 0"),
            ("update", self.update in ("joint", "sequential", "in_turn"), "joint, sequential or in_turn"),
            ("input_dropout", 0 <= self.input_dropout < 1, "a share from 0 to below 1"),
            ("attention_maximum", self.attention_maximum in ("magnitude", "signed"), "magnitude or signed"),
        )
        _check(self, rules)

    @property
    def stop_share(self) -> float:
        """The last epoch is kept."""
        return 0.0


@dataclass(frozen=True, slots=True)
class FlexCareSettings(_Common):
    """FlexCare and its training (FlexCare paper, sections 4, 5.1.2 and A.4).

    Attributes:
        width: d, features of every token (A.4: 128).
        layers, heads, hidden: of the encoder (A.4: 4 layers, 2 heads); features of its feed-forward networks.
        dropout: in the encoder, while it trains.
        combinations: which modality combinations have a token: "all", "pairs" (single modalities, pairs, and all
            together), "single" (none but each modality's class token: the paper's variant a-), or "auto": all of them
            up to four modalities, pairs from five on.
        mask: "paper" masks the encoder as Eq. 4 says; "published_code" adds 1 to what Eq. 4 excludes, as the authors'
            code does, which masks nothing.
        covariance_weight: beta of Eq. 13; 0 leaves the decorrelation out (variants a- and b-).
        experts, top: experts, and how many of them a token is sent to (A.4: 10 and 2); `experts: 1` leaves the mixture
            out, one network serves all (variants a- to c-).
        expert_hidden: features of an expert's hidden layer; the paper does not say.
        gate_noise: least standard deviation of the router's noise while it trains.
        balance_weight: of the term that spreads the load over the experts.
        fusion_temperature: of Eq. 11.
        task_token: "learned", or "none" for the paper's comparison in appendix B.
        patch: side of an image's patches, in pixels.
        update: "asynchronous" trains on one task at a time (Algorithm 1); "joint" makes one step on all losses.
        order: the tasks in the order in which an epoch takes them; those not named follow by name.
        task_weights: weight of a task's loss, 1 where not named (A.4: 0.2 to 1).
        weighted: what a task's weight multiplies: its "whole" loss, that is prediction, decorrelation (Eq. 13) and the
            load of the experts; or its "prediction" alone, as version 0.1.0 did.
        epochs: passes over the rows of every task (A.4: 40).
        batch_size, learning_rate: rows a step and Adam's rate at the start (A.4: 32; 1e-3 or 5e-4).
        patience: a task's rate is halved when its loss on the stopping rows has not fallen for so many epochs.
        stop_share: share of the training patients that is set aside to halve the rates and to choose the epoch, as the
            paper sets 1 in 8 aside; 0 keeps the last epoch. Validation rows and test patients never choose.
        rare, precision, replicates, average, balance: as of `M3HSettings`; the last two with `update: joint` alone.
    """

    width: int = 128
    layers: int = 4
    heads: int = 2
    hidden: int = 512
    dropout: float = 0.1
    combinations: Literal["auto", "all", "pairs", "single"] = "auto"
    mask: Literal["paper", "published_code"] = "paper"
    covariance_weight: float = 0.5
    experts: int = 10
    top: int = 2
    expert_hidden: int = 128
    gate_noise: float = 1e-2
    balance_weight: float = 1e-2
    fusion_temperature: float = 0.2
    task_token: Literal["learned", "none"] = "learned"
    patch: int = 16
    update: Literal["asynchronous", "joint"] = "asynchronous"
    order: tuple[str, ...] = ()
    task_weights: dict[str, float] = field(default_factory=dict)
    epochs: int = 40
    batch_size: int = 32
    learning_rate: float = 5e-4
    patience: int = 2
    stop_share: float = 0.125
    rare: float = 0.0
    precision: Precision = "float32"
    replicates: int = 50
    weighted: Literal["whole", "prediction"] = _added("whole", before="prediction")
    average: int = _added(0, before=0)
    balance: Balance = field(default="equal", metadata={"before": "equal"})

    def __post_init__(self) -> None:
        rules = (
            ("layers", 1 <= self.layers <= MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}"),
            ("heads", self.heads >= 1 and self.width % max(1, self.heads) == 0, "a whole number that divides width"),
            ("hidden", 1 <= self.hidden <= MOST_FEATURES, f"a whole number from 1 to {MOST_FEATURES}"),
            ("dropout", 0 <= self.dropout < 1, "a share of at least 0 and under 1"),
            ("combinations", self.combinations in ("auto", "all", "pairs", "single"), "auto, all, pairs or single"),
            ("mask", self.mask in ("paper", "published_code"), "paper or published_code"),
            ("covariance_weight", self.covariance_weight >= 0, "a number of at least 0"),
            ("experts", 1 <= self.experts <= MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}"),
            ("top", 1 <= self.top <= MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}"),
            ("expert_hidden", 1 <= self.expert_hidden <= MOST_FEATURES, f"a whole number from 1 to {MOST_FEATURES}"),
            ("gate_noise", self.gate_noise > 0, "a number above 0"),
            ("balance_weight", self.balance_weight >= 0, "a number of at least 0"),
            ("fusion_temperature", self.fusion_temperature > 0, "a number above 0"),
            ("task_token", self.task_token in ("learned", "none"), "learned or none"),
            ("patch", 1 <= self.patch <= MOST_FEATURES, f"a whole number from 1 to {MOST_FEATURES}"),
            ("update", self.update in ("asynchronous", "joint"), "asynchronous or joint"),
            ("order", len(set(self.order)) == len(self.order), "each task once"),
            ("weighted", self.weighted in ("whole", "prediction"), "whole or prediction"),
            ("patience", 1 <= self.patience <= MOST_STEPS, f"a whole number from 1 to {MOST_STEPS}"),
            ("stop_share", 0 <= self.stop_share <= 0.5, "a share between 0 and 0.5"),
        )
        _check(self, rules)

    @property
    def evaluation_rows(self) -> int:
        """A sequence of tokens takes many times the memory of a vector."""
        return 128

    @property
    def without_effect(self) -> frozenset[str]:
        """What weights multiply is all one where all of them are 1."""
        return frozenset() if any(weight != 1 for weight in self.task_weights.values()) else frozenset({"weighted"})


def judged_at_once(settings: TrainingSettings, inputs: Sequence[Sequence[int]]) -> int:
    """Rows that are predicted at a time: `evaluation_rows`, or a minibatch of rows as large as a long note.

    So scoring needs no more memory than training, which keeps what a backward pass needs.

    Args:
        inputs: the shape of one row's input of each modality.
    """
    large = sum(map(math.prod, inputs)) > LARGE_ROW
    return min(settings.evaluation_rows, settings.batch_size) if large else settings.evaluation_rows


@dataclass(frozen=True)
class OwnSettings(_Common):
    """Settings of a network of one's own (`lifted.py`); it may extend them by subclassing, as a frozen dataclass.

    Attributes:
        width: features of each task's embedding.
        epochs, batch_size, learning_rate, rare, precision, replicates, average, balance, task_weights: as of
            `M3HSettings`.
    """

    width: int = 64
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 3e-4
    rare: float = 0.1
    precision: Precision = "float32"
    replicates: int = 50
    average: int = _added(0, before=0)
    balance: Balance = field(default="equal", metadata={"before": "equal"})
    task_weights: dict[str, float] = field(default_factory=dict, metadata={"before": {}})

    def __post_init__(self) -> None:
        _check(self, ())

    @property
    def update(self) -> str:
        """One step on the total of all losses."""
        return "joint"

    @property
    def stop_share(self) -> float:
        """The last epoch is kept."""
        return 0.0


@dataclass(frozen=True)
class SharedSettings(OwnSettings):
    """Hard parameter sharing and its training.

    Attributes:
        layers: of the trunk that all tasks share.
        width, epochs, batch_size, learning_rate, rare, precision, replicates, average, balance, task_weights: as of
            `M3HSettings`.
    """

    layers: int = 2

    def __post_init__(self) -> None:
        _check(self, (("layers", 1 <= self.layers <= MOST_LAYERS, f"a whole number from 1 to {MOST_LAYERS}"),))


def _check(settings: Any, rules: tuple[tuple[str, bool, str], ...]) -> None:
    """Raise ValueError for the first rule (field, whether it holds, what is allowed) that does not hold.

    `rules` are a network's own; those of the fields that all networks have come first.
    """
    equal = settings.balance == "equal"
    weights = all(math.isfinite(weight) and weight > 0 for weight in settings.task_weights.values())
    common = (
        ("width", 1 <= settings.width <= MOST_FEATURES, f"a whole number from 1 to {MOST_FEATURES}"),
        ("epochs", 1 <= settings.epochs <= MOST_STEPS, f"a whole number from 1 to {MOST_STEPS}"),
        ("batch_size", 2 <= settings.batch_size <= MOST_ROWS, f"a whole number from 2 to {MOST_ROWS}"),
        ("learning_rate", settings.learning_rate > 0, "a number above 0"),
        ("rare", 0 <= settings.rare <= 1, "a share between 0 and 1"),
        ("precision", settings.precision in get_args(Precision), "float32, tf32 or float64"),
        ("replicates", 0 <= settings.replicates <= MOST_STEPS, f"a whole number from 0 to {MOST_STEPS}"),
        (
            "average",
            settings.average % 2 == 0 and 0 <= settings.average < 2 * settings.epochs,
            f"0 or an even number of epochs below {2 * settings.epochs} (twice `epochs`)",
        ),
        ("average", settings.average == 0 or settings.update == "joint", "0 unless update is joint"),
        ("task_weights", weights, "numbers above 0"),
        ("balance", settings.balance in get_args(Balance), f"one of {', '.join(get_args(Balance))}"),
        (
            "balance",
            equal or settings.update == "joint",
            "equal unless update is joint, for a step on one loss has nothing to balance",
        ),
        ("balance", equal or not settings.task_weights, "equal where task_weights are given, for it chooses others"),
    )
    for name, holds, allowed in (*common, *rules):
        value = getattr(settings, name)
        if not holds or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: expected {allowed}, got {value!r}")


#: The network of a search file that names none.
DEFAULT_NETWORK = "m3h"

NETWORKS: dict[str, type[Any]] = {"flexcare": FlexCareSettings, "m3h": M3HSettings, "shared": SharedSettings}


def settings_class(network: str) -> type[Any]:
    """Settings dataclass of a network; raises BadInput for an unknown one."""
    try:
        return NETWORKS[network]
    except KeyError:
        allowed = ", ".join(sorted(NETWORKS))
        raise BadInput(f"network: expected one of {allowed}, got {network!r}. Choose one of them.") from None
