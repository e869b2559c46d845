"""What happens inside FlexCare, for one subset of a search: the paper's own analyses, in counts and means.

Networks are trained again for this, since a search keeps scores and no parameters; everything is judged on the
validation rows of one fold, never on test patients. No row of the result is about one patient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.data.seeding import generator
from model.networks import flexcare
from model.networks.contract import Inside, Parameters, layout, n_logits
from model.networks.settings import FlexCareSettings
from model.scoring import metrics
from model.trained.confirming import cells, flat
from model.training.fitting import fit_pack
from model.training.in_turn import in_order
from model.training.pack import Fitted, PackModel
from model.training.predicting import predict
from model.training.scores import labels_of, score_pack
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import Pack, Score, Subset, Unit

#: Patients of a task whose representation is shown, as in the paper (30 minibatches of 32, section 5.3.2).
MAP_ROWS = 960

#: Validation rows that are judged after each turn.
TURN_ROWS = 2000


def look(
    cohort: Cohort,
    settings: FlexCareSettings,
    subset: Subset,
    seeds: Sequence[int],
    fold: int = 0,
    device: str = "auto",
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Inside:
    """Train a subset, its tasks alone, and the subset without task tokens, and look at them.

    Args:
        cohort: as the search saw it.
        settings: of the search.
        subset: the tasks to look at.
        seeds: scores are means over them; routing, turns and maps are those of the first.
        fold: the validation fold.
        device, threads: see `TrainingPayload`.
        tell: takes a line about what is being done.
    """
    worker = PackTrainer(TrainingPayload(cohort, "flexcare", settings, device, threads))
    here = worker.fold(fold)
    bare = dataclasses.replace(settings, task_token="none")
    together = Pack((Unit(subset, seeds[0], fold),))
    singles = tuple((name,) for name in subset)
    turns: list[dict[str, object]] = []
    scores: list[dict[str, object]] = []
    kept: dict[str, Fitted] = {}
    for number, seed in enumerate(seeds):
        for variant, members, how in (
            ("together", (subset,), settings),
            ("alone", singles, settings),
            ("no task token", (subset,), bare),
        ):
            if variant == "alone" and len(subset) == 1:
                continue
            tell(f"Seed {seed} ({number + 1} of {len(seeds)}): {' + '.join(subset)}, {variant}")
            pack = Pack(tuple(Unit(names, seed, fold) for names in members))
            note = _turns(cohort, here, settings, together, turns) if (variant, number) == ("together", 0) else None
            fitted = fit_pack(pack, cohort.tasks, here, how, flexcare, note)
            rows, _ = score_pack(pack, fitted, cohort.tasks, here)
            scores += [_row(row, variant) for row in rows if row.metric != "chosen_epoch"]
            if number == 0:
                kept[variant] = fitted
    tell("Routing and representations")
    inner = {variant: _inner(kept[variant], cohort, here, how) for variant, how in
             (("together", settings), ("no task token", bare))}  # fmt: skip
    return Inside(
        subset=subset,
        order=tuple(in_order(set(subset), settings.order)),
        scores=_mean(pd.DataFrame(scores)),
        routing=_routing(cohort, settings, subset, inner["together"]),
        turns=pd.DataFrame(turns),
        **_maps(subset, inner, seeds[0]),
    )


def _row(row: Score, variant: str) -> dict[str, object]:
    return {
        "task": row.task,
        "metric": row.metric,
        "primary": row.primary,
        "variant": variant,
        "seed": row.unit.seed,
        "score": row.value,
    }


def _mean(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the seeds, as the paper's Table 3 has them."""
    by = scores.groupby(["task", "metric", "primary", "variant"], sort=False)["score"]
    found = by.agg(["mean", "std", "count"]).reset_index()
    return found.rename(columns={"std": "sd", "count": "seeds"})


# Every task's score after each turn (Fig. 7) --------------------------------------------------------------------------


def _turns(
    cohort: Cohort, fold: Fold, settings: FlexCareSettings, pack: Pack, found: list[dict[str, object]]
) -> Callable[[int, str, Parameters], None]:
    """Notes the validation score of every task after each task's turn."""
    subset = pack.units[0].subset
    few = torch.arange(min(TURN_ROWS, len(fold.validation)), device=fold.validation.targets.device)
    part = dataclasses.replace(fold, validation=fold.validation.take(few), weights=fold.weights[:1, : len(few)])
    plan = layout((subset,), cohort.tasks, fold, fold.validation.targets.device)

    def note(epoch: int, trained: str, values: Parameters) -> None:
        model = PackModel(flexcare, settings, plan, values)
        logits = predict(model, part.validation).logits[0].double().cpu().numpy()
        for slot, name in enumerate(plan.names[0]):
            task = cohort.tasks[name]
            labels, known = labels_of(part, task)
            said = logits[slot, known, : n_logits(task)]
            value = metrics.score(task.metric, task.kind, labels, said, part.weights[:, known])[0]
            found.append({"epoch": epoch + 1, "turn": trained, "task": name, "score": float(value)})

    return note


# Routing (Fig. 6) and representations (Fig. 5) ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Of one task's labelled validation rows: routing (n, C, E), which combinations exist (n, C), s^p (m, 2d)."""

    chosen: NDArray[np.bool_]
    there: NDArray[np.bool_]
    patient: NDArray[np.float64]


def _inner(fitted: Fitted, cohort: Cohort, fold: Fold, settings: FlexCareSettings) -> dict[str, _Seen]:
    found = {}
    for slot, name in enumerate(fitted.layout.names[0]):
        _, known = labels_of(fold, cohort.tasks[name])
        at = torch.from_numpy(np.flatnonzero(known)).to(fold.validation.targets.device)
        rows: Rows = fold.validation.take(at)
        plan = fitted.layout.only(name)
        own = {
            key: value[:, slot : slot + 1] if flexcare.by_slot(key) else value for key, value in fitted.values.items()
        }
        routing, fusion, patient = [], [], []
        with torch.no_grad():
            for part in rows.split(settings.evaluation_rows):
                inner: flexcare.Inner = flexcare.forward(own, plan, part, settings).inner
                routing.append(inner.routing[0, :, 0].cpu().numpy() > 0)
                fusion.append(inner.fusion[0, :, 0].cpu().numpy() > 0)
                patient.append(inner.patient[0, :, 0].double().cpu().numpy())
        found[name] = _Seen(*(np.concatenate(x) for x in (routing, fusion, patient)))
    return found


def _routing(cohort: Cohort, settings: FlexCareSettings, subset: Subset, seen: dict[str, _Seen]) -> pd.DataFrame:
    """How often each expert is among the chosen: share of all choices, by task and combination."""
    names = list(cohort.modalities)
    combos = flexcare.combinations_of(len(names), settings.combinations)
    rows = []
    for task in subset:
        for number, combo in enumerate(combos):
            counts = seen[task].chosen[:, number].sum(0)
            rows += [
                {
                    "task": task,
                    "combination": " + ".join(names[m] for m in combo),
                    "expert": expert + 1,
                    "chosen": int(count),
                    "rows": int(seen[task].there[:, number].sum()),
                }
                for expert, count in enumerate(counts)
            ]
    return pd.DataFrame(rows)


def _maps(subset: Subset, inner: dict[str, dict[str, _Seen]], seed: int) -> dict[str, pd.DataFrame]:
    """Representations in two dimensions as densities, and how well they tell the tasks apart."""
    places, apart = [], []
    for variant, seen in inner.items():
        dice = np.random.default_rng(generator("inside", seed).initial_seed())
        some = {name: dice.permutation(len(seen[name].patient))[:MAP_ROWS] for name in subset}
        x = np.concatenate([seen[name].patient[some[name]] for name in subset])
        whose = np.repeat(np.arange(len(subset)), [len(some[name]) for name in subset])
        # Without task tokens half of the representation is zero; a row of it may then occur several times.
        told = len(subset) > 1 and bool(x.std(0).any())
        apart.append({"variant": variant, "silhouette": silhouette_score(x, whose) if told else float("nan")})
        flattened = flat(x, seed) if len(x) > 3 else np.zeros((len(x), 2))
        spans = [(float(axis.min()), float(axis.max())) for axis in flattened.T]
        for number, name in enumerate(subset):
            place = flattened[whose == number]
            places += [
                {"variant": variant, "task": name, "x": a, "y": b, "patients": int(n)}
                for a, b, n in zip(*cells(place[:, 0], place[:, 1], spans[0], spans[1]), strict=True)
            ]
    kinds = {"variant": str, "task": str, "x": float, "y": float, "patients": int}  # also of a map without a dense cell
    return {"patients": pd.DataFrame(places, columns=list(kinds)).astype(kinds), "apart": pd.DataFrame(apart)}
