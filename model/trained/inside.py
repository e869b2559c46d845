"""What happens inside a network for one subset of a search: the FlexCare paper's own analyses, in counts and means.

Networks are trained again for this, since a search keeps scores and no parameters; everything is judged on the
validation rows of one fold, never on test patients. No row of the result is about one patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score
from torch import Tensor

from model.cohorts.cohort import Bools, Cohort
from model.data.folds import Fold
from model.data.seeding import generator
from model.networks import registry as networks
from model.networks.contract import Inside, Layout, Network, Parameters, Shows, layout, n_logits
from model.networks.settings import judged_at_once
from model.scoring import metrics
from model.trained.confirming import dense_cells, in_two_dimensions
from model.training.fitting import fit_pack
from model.training.in_turn import in_order
from model.training.pack import Fitted, PackModel
from model.training.predicting import predict
from model.training.scores import labels_of, score_pack
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import BadInput, Pack, Score, Subset, Unit

#: Patients of a task whose representation is shown, as in the paper (30 minibatches of 32, section 5.3.2).
MAP_ROWS = 960

#: Labelled validation rows of each task that are judged after each turn.
TURN_ROWS = 2000


def shows(name: str, *, allow_code: bool = False) -> Shows:
    """What a network shows of its inside.

    Args:
        name: see `model.networks.registry.find`.
        allow_code: whether a network of one's own may be imported.

    Raises:
        BadInput: it has nothing of the kind to show.
    """
    inside = networks.find(name, allow_code=allow_code).INSIDE if ":" not in name or allow_code else None
    if inside is None:
        raise BadInput(
            f"network: {name} has no experts, no turns and no task tokens to look at; flexcare has. What {name} offers "
            "is in `tim-search report`."
        )
    return inside


def look(
    payload: TrainingPayload,
    subset: Subset,
    seeds: Sequence[int],
    fold: int = 0,
    tell: Callable[[str], None] = lambda text: None,
    turn_rows: int = TURN_ROWS,
) -> Inside:
    """Train a subset, its tasks alone, and the subset without task tokens, and look at them.

    Args:
        payload: of the search: its cohort, network and settings.
        subset: the tasks to look at.
        seeds: scores are means over them; routing, turns and maps are those of the first.
        fold: the validation fold.
        tell: takes a line about what is being done.
        turn_rows: labelled rows of each task that are judged after each turn, at most.

    Raises:
        BadInput: the network has nothing to show.
    """
    cohort, settings = payload.cohort, payload.settings
    shown, network = shows(payload.network, allow_code=True), networks.find(payload.network, allow_code=True)
    rows = PackTrainer(payload).fold(fold)
    tokenless = shown.without_task_token(settings)
    turns: list[dict[str, object]] = []
    scores: list[dict[str, object]] = []
    first: dict[str, Fitted] = {}
    for number, seed in enumerate(seeds):
        for variant, members, how in (
            ("together", (subset,), settings),
            ("alone", tuple((name,) for name in subset), settings),
            ("no task token", (subset,), tokenless),
        ):
            if variant == "alone" and len(subset) == 1:
                continue
            tell(f"Seed {seed} ({number + 1} of {len(seeds)}): {' + '.join(subset)}, {variant}")
            pack = Pack(tuple(Unit(names, seed, fold) for names in members))
            note = None
            if (variant, number) == ("together", 0):
                note = _noting_turns(cohort, rows, network, how, subset, turns, turn_rows, seed)
            fitted = fit_pack(pack, cohort.tasks, rows, how, network, note)
            rows_of_scores, _ = score_pack(pack, fitted, cohort.tasks, rows)
            scores += [_row(score, variant) for score in rows_of_scores if score.metric != "chosen_epoch"]
            if number == 0:
                first[variant] = fitted
    tell("Routing and representations")
    views = {variant: _views(first[variant], cohort, rows) for variant in ("together", "no task token")}
    return Inside(
        subset=subset,
        order=tuple(in_order(set(subset), getattr(settings, "order", ()))),
        scores=_mean(pd.DataFrame(scores)),
        routing=_routing(cohort, shown.combinations(len(cohort.modalities), settings), subset, views["together"]),
        turns=pd.DataFrame(turns),
        **_maps(subset, views, seeds[0]),
    )


def _row(score: Score, variant: str) -> dict[str, object]:
    return {
        "task": score.task,
        "metric": score.metric,
        "primary": score.primary,
        "variant": variant,
        "seed": score.unit.seed,
        "score": score.value,
    }


def _mean(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, as the paper's Table 3 has them."""
    by_variant = scores.groupby(["task", "metric", "primary", "variant"], sort=False)["score"]
    return by_variant.agg(mean="mean", sd="std", seeds="count").reset_index()


def _of_task(values: Parameters, whole: Layout, network: Network, task: str) -> tuple[Parameters, Layout]:
    """One task of a pack of one member: its parameters and their layout."""
    slot = whole.names[0].index(task)
    own = {name: value[:, slot : slot + 1] if network.by_slot(name) else value for name, value in values.items()}
    return own, whole.only(task)


# Every task's score after each turn (Fig. 7) --------------------------------------------------------------------------


def _noting_turns(
    cohort: Cohort,
    fold: Fold,
    network: Network,
    settings: Any,
    subset: Subset,
    turns: list[dict[str, object]],
    most: int,
    seed: int,
) -> Callable[[int, str, Parameters], None]:
    """A function that notes in `turns` the validation score of every task after each task's turn.

    Each task is judged on its own labelled rows, drawn from all of them: the first rows of a cohort that is laid out
    task after task, or class after class, would leave tasks without a label or without a second class.
    """
    whole = layout((subset,), cohort.tasks, fold, fold.validation.targets.device)
    judges: dict[str, Fold] = {}
    for name in subset:
        _, labelled = labels_of(fold, cohort.tasks[name])
        places = np.flatnonzero(labelled)
        order = torch.randperm(len(places), generator=generator("turns", seed, name)).numpy()
        places = np.sort(places[order[:most]])
        index = torch.from_numpy(places).to(fold.validation.targets.device)
        judges[name] = replace(fold, validation=fold.validation.take(index), weights=fold.weights[:1, places])

    def note(epoch: int, trained: str, values: Parameters) -> None:
        for name, judge in judges.items():
            task, score = cohort.tasks[name], float("nan")
            if len(judge.validation):
                own, alone = _of_task(values, whole, network, name)
                predictions = predict(PackModel(network, settings, alone, own), judge.validation)
                logits = predictions.logits[0, 0, :, : n_logits(task)].double().cpu().numpy()
                labels, labelled = labels_of(judge, task)
                score = metrics.score(task.metric, task.kind, labels, logits[labelled], judge.weights[:, labelled])[0]
            turns.append({"epoch": epoch + 1, "turn": trained, "task": name, "score": float(score)})

    return note


# Routing (Fig. 6) and representations (Fig. 5) ------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Of n labelled validation rows of one task.

    Attributes:
        chosen: bool (n, C, E), which experts a combination's token was sent to.
        present: bool (n, C), which combinations a row has.
        patient: float64 (n, 2d), the representation s^p that the heads read.
    """

    chosen: Bools
    present: Bools
    patient: NDArray[np.float64]


@torch.no_grad()
def _views(fitted: Fitted, cohort: Cohort, fold: Fold) -> dict[str, _View]:
    """What a trained pack of one member does with each task's labelled validation rows."""
    views = {}
    for name in fitted.layout.names[0]:
        _, labelled = labels_of(fold, cohort.tasks[name])
        places = torch.from_numpy(np.flatnonzero(labelled)).to(fold.validation.targets.device)
        own, alone = _of_task(fitted.values, fitted.layout, fitted.network, name)
        parts: list[tuple[Tensor, ...]] = []
        for rows in fold.validation.take(places).split(judged_at_once(fitted.settings, fold.validation.shapes)):
            inner = fitted.network.forward(own, alone, rows, fitted.settings).inner
            parts.append((inner.routing[0, :, 0] > 0, inner.fusion[0, :, 0] > 0, inner.patient[0, :, 0].double()))
        views[name] = _View(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))
    return views


def _routing(
    cohort: Cohort, combinations: Sequence[Sequence[int]], subset: Subset, views: Mapping[str, _View]
) -> pd.DataFrame:
    """How often each expert is among the chosen: share of all choices, by task and combination."""
    names = list(cohort.modalities)
    return pd.DataFrame([
        {
            "task": task,
            "combination": " + ".join(names[m] for m in combination),
            "expert": expert + 1,
            "chosen": int(count),
            "rows": int(views[task].present[:, number].sum()),
        }
        for task in subset
        for number, combination in enumerate(combinations)
        for expert, count in enumerate(views[task].chosen[:, number].sum(0))
    ])  # fmt: skip


def _maps(subset: Subset, views: Mapping[str, Mapping[str, _View]], seed: int) -> dict[str, pd.DataFrame]:
    """Representations in two dimensions as densities, and how well they tell the tasks apart."""
    places, apart = [], []
    for variant, by_task in views.items():
        dice = np.random.default_rng(generator("inside", seed).initial_seed())
        some = {name: dice.permutation(len(by_task[name].patient))[:MAP_ROWS] for name in subset}
        x = np.concatenate([by_task[name].patient[some[name]] for name in subset])
        whose = np.repeat(np.arange(len(subset)), [len(some[name]) for name in subset])
        # Without task tokens half of the representation is zero; a row of it may then occur several times.
        differ = len(subset) > 1 and bool(x.std(0).any())
        apart.append({"variant": variant, "silhouette": silhouette_score(x, whose) if differ else float("nan")})
        flattened = in_two_dimensions(x, seed) if len(x) > 3 else np.zeros((len(x), 2))
        spans = [(float(axis.min()), float(axis.max())) for axis in flattened.T]
        for number, name in enumerate(subset):
            place = flattened[whose == number]
            places += [
                {"variant": variant, "task": name, "x": a, "y": b, "patients": int(n)}
                for a, b, n in zip(*dense_cells(place[:, 0], place[:, 1], spans[0], spans[1]), strict=True)
            ]
    kinds = {"variant": str, "task": str, "x": float, "y": float, "patients": int}  # also of a map without a dense cell
    return {"patients": pd.DataFrame(places, columns=list(kinds)).astype(kinds), "apart": pd.DataFrame(apart)}
