"""Hyperparameters by Ray Tune: the grid, or Optuna's sampler, on the ordinary way of training.

A trial trains the subsets of a study in packs, with one choice of settings, and hands every pack's result to this
process, which writes it to the ledger before anything else sees it. Tune's and Optuna's own state is thrown away: what
a study knows is in the ledger, so a study goes on after a kill with the trainings that the ledger lacks, and Optuna is
told what was found before. Optuna repeats itself on small spaces; a combination that has its answer is told to it again
and not trained again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna

# Tune writes files of its own about every result, and boxes to the standard output, unless it is told not to.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# A trial's value is known here, not where it reports.
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from tim_search.executors.contract import WorkerError, describe
from tim_search.executors.packing import packs
from tim_search.executors.ray_nodes import check, room
from tim_search.executors.ray_start import connected
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop.tally import Event
from tim_search.tuning import choices
from tim_search.tuning.choices import Study, Trial
from tim_search.types import Interrupted, PackResult, Resources, TimSearchError, TrainerFactory, Unit, canonical

#: How often a trial whose process was lost is started anew.
_RESTARTS = 2
#: How many combinations that have their answer Optuna may name in a row before its space counts as used up.
_PATIENCE = 50
_VALUE = "skill"


def run(
    study: Study,
    ledger: Ledger,
    factory: TrainerFactory,
    payload: Any,
    resources: Resources,
    capacity: int,
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[Trial]:
    """Train what the ledger lacks of a study, and return its trials.

    Args:
        factory, payload: of the trainer (see `tim_search.types`); `payload` is a dataclass whose `settings` is one that
            has the tuned settings as fields.
        resources: what each worker holds, and how many there are.
        capacity: the largest number of subsets a pack.
        address: of a Ray cluster; None takes RAY_ADDRESS, else Ray on this machine.
        on_event: told about progress.

    Raises:
        Interrupted: after SIGINT or SIGTERM; the ledger holds all that was trained.
        WorkerError: trials failed for a reason that is no score, such as a worker whose process is lost again and
            again. What the others trained is in the ledger.
        LedgerError: when the ledger cannot be written, or another driver writes it.
    """
    check(resources)
    with ledger.writer_lock():
        progress = _Progress(study, ledger, on_event)
        if progress.complete():
            progress.tell("done", "every trial was in the ledger already")
            return progress.trials()
        try:
            with connected(address):
                errors = _fit(study, progress, factory, payload, resources, capacity)
        except KeyboardInterrupt:
            raise Interrupted(
                f"Stopped: {progress.done} trainings of the tuning are in {ledger.place}. Run the same command again "
                "to go on from there."
            ) from None
        ledger.compact()
    for error in errors:
        cause = getattr(error, "cause", None)
        if isinstance(cause, TimSearchError):
            raise cause
    if errors:
        raise WorkerError(
            f"{len(errors)} trials of the tuning failed: {describe(errors[0])} What was trained is in {ledger.place}. "
            "Mend that, then run the same command again."
        ) from errors[0]
    progress.tell("done", f"{len(progress.trials())} combinations of settings compared")
    return progress.trials()


def figures(
    study: Study, trials: list[Trial], folder: Path, save: Callable[[Any, Path], Path], name: str = "tuning"
) -> list[Path]:
    """Optuna's history of the study and the importance of its settings, as PNG files; [] for too few trials.

    `save` writes an axis that was made with pyplot to a file and closes its figure.
    """
    values = {canonical(trial.values): trial.value(study) for trial in trials}
    whole = [trial for trial in trials if math.isfinite(values[canonical(trial.values)])]
    if len(whole) < 2:
        return []
    space = _distributions(study)
    again = _quiet_study()
    for trial in whole:
        again.add_trial(
            optuna.trial.create_trial(
                params=dict(trial.values), distributions=space, value=values[canonical(trial.values)]
            )
        )
    plots: dict[str, Callable[[Any], Any]] = {"history": optuna.visualization.matplotlib.plot_optimization_history}
    # Where nothing varies there is nothing whose importance could be told.
    if len(study.space) > 1 and len(whole) > 3 and max(values.values()) > min(values.values()):
        # Of a handful of trials Optuna's usual measure, which compares the best tenth with the rest, says nothing.
        measure = optuna.importance.FanovaImportanceEvaluator(seed=0)
        plots["importance"] = partial(optuna.visualization.matplotlib.plot_param_importances, evaluator=measure)
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the drawing is experimental
        for kind, draw in plots.items():
            axes = draw(again)
            axes.set_title("", loc="left")
            axes.set_title(
                {"history": "Trials in turn", "importance": "Importance of the settings"}[kind], loc="center"
            )
            if kind == "history":
                axes.set_ylabel("mean skill")
            elif (legend := axes.get_legend()) is not None:
                legend.remove()
            axes.figure.set_size_inches(7, 4)
            axes.figure.set_layout_engine("tight")
            paths.append(save(axes, folder / f"{name}-{kind}.png"))
    return paths


def _fit(
    study: Study, progress: _Progress, factory: TrainerFactory, payload: Any, resources: Resources, capacity: int
) -> list[BaseException]:
    """Let Tune run the trials; returns what went wrong in them."""
    needs = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.extra}
    trainable = tune.with_resources(
        tune.with_parameters(
            _train,
            answered=progress.answered(),
            study=study,
            factory=factory,
            payload=payload,
            capacity=capacity,
        ),
        needs,
    )
    settings: dict[str, Any] = {
        "reuse_actors": True,
        "max_concurrent_trials": resources.workers or max(1, room(ray.nodes(), resources)),
    }
    if study.sampler == "grid":
        # A trial of Tune is a combination with all its folds; where there are more workers, with some of them.
        shares = min(len(study.folds), -(-settings["max_concurrent_trials"] // len(study.grid())))
        work = [
            {"settings": values, "folds": folds}
            for values in study.grid()
            for share in range(shares)
            if (folds := [fold for fold in study.folds[share::shares] if progress.lacks(values, fold)])
        ]
        space: dict[str, Any] = {"work": tune.grid_search(work)}
    else:
        space = {}
        settings |= {"search_alg": _Distinct(study, progress), "num_samples": -1, "metric": _VALUE, "mode": "max"}
    writer = _Writer(progress)
    with tempfile.TemporaryDirectory(prefix="tim-search-tune-") as folder, _quiet():
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(**settings),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="tuning",
                verbose=0,
                callbacks=[writer],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            ),
        )
        try:
            return list(tuner.fit().errors)
        except tune.TuneError:
            if writer.error is not None:
                raise writer.error from None
            raise


def _train(
    config: Mapping[str, Any],
    answered: frozenset[tuple[str, Unit]],
    study: Study,
    factory: TrainerFactory,
    payload: Any,
    capacity: int,
) -> None:
    """A trial, in a worker's process: train what is not answered, and report every pack as it is done."""
    work = config.get("work", config)
    values = _ordered(study, work["settings"])
    name = canonical(values)
    units = [unit for unit in study.units if unit.fold in work.get("folds", study.folds)]
    todo = [unit for unit in units if (name, unit) not in answered]
    with contextlib.closing(SerialExecutor(factory, payload, study.tasks)) as executor:
        for result in executor.run(packs(todo, study.tasks, capacity), name):
            tune.report({"values": values, "result": result})


def _ordered(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A combination as its study writes it: settings in the order of the space."""
    return {name: settings[name] for name in study.space}


class _Progress:
    """What is known of a study, kept in step with the ledger."""

    def __init__(self, study: Study, ledger: Ledger, on_event: Callable[[Event], None]) -> None:
        self._study, self._ledger, self._on_event = study, ledger, on_event
        self._start = time.monotonic()
        self._skills: dict[str, tuple[dict[str, Any], dict[Any, float]]] = {
            canonical(trial.values): (dict(trial.values), dict(trial.skills))
            for trial in choices.trials(study, ledger.scores(columns=choices.COLUMNS))
        }
        self._failed: set[tuple[str, Unit]] = set()
        self.done = len(self.answered())
        self.tell("round", f"{self._total() - self.done} trainings of {self._total()} to do")

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune keeps copies of what it is given, to restore a run that nobody restores: the ledger does that.
        return object, ()

    def trials(self) -> list[Trial]:
        return [Trial(values, skills) for _, (values, skills) in sorted(self._skills.items())]

    def trial(self, values: Mapping[str, Any]) -> Trial:
        return Trial(values, self._skills.get(canonical(values), ({}, {}))[1])

    def whole(self) -> int:
        """Combinations that have all their answers."""
        return sum(not trial.missing(self._study) for trial in self.trials())

    def lacks(self, values: Mapping[str, Any], fold: int) -> bool:
        return any(unit.fold == fold for unit in self.trial(values).missing(self._study))

    def complete(self) -> bool:
        if self._study.sampler == "grid":
            return all(not self.trial(values).missing(self._study) for values in self._study.grid())
        return self.whole() >= self._study.trials

    def answered(self) -> frozenset[tuple[str, Unit]]:
        return frozenset(
            (name, Unit(members, self._study.seed, fold))
            for name, (_, skills) in self._skills.items()
            for members, fold, _ in skills
        )

    def add(self, values: Mapping[str, Any], result: PackResult) -> None:
        """Write a pack's result to the ledger, then take note of it."""
        self._ledger.append(result, self._study.context_of(values))
        name = canonical(values)
        skills = self._skills.setdefault(name, (dict(values), {}))[1]
        for score in result.scores:
            if not score.primary:
                continue
            place = (score.unit.subset, score.unit.fold, score.task)
            reached = choices.skill(score.metric, score.value) if score.status == "ok" else math.nan
            skills.setdefault(place, reached)
            if score.status == "failed":
                self._failed.add((name, score.unit))
        self.done = len(self.answered())
        self.tell("pack")

    def tell(self, kind: Any, message: str = "") -> None:
        seconds = time.monotonic() - self._start
        self._on_event(Event(kind, 1, self.done, max(self._total(), self.done), len(self._failed), seconds, message))

    def _total(self) -> int:
        return self._study.trials * len(self._study.units)


class _Writer(tune.Callback):  # type: ignore[misc]
    """Hands every pack that a trial reports to the ledger; Tune calls it in this process."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress
        #: Why the results could not be written; Tune makes another error of it.
        self.error: Exception | None = None

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        if isinstance(result.get("result"), PackResult):
            try:
                self._progress.add(result["values"], result["result"])
            except Exception as error:
                self.error = error
                raise


class _Distinct(OptunaSearch):  # type: ignore[misc]
    """Optuna, asked until it names a combination without an answer; the ledger's answers are told to it."""

    def __init__(self, study: Study, progress: _Progress) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._of, self._progress = study, progress
        self._asked: dict[str, dict[str, Any]] = {}
        self._lost: set[str] = set()  # combinations whose process was lost too often
        valued = [(trial, trial.value(study)) for trial in progress.trials()]
        answered = [(trial, value) for trial, value in valued if math.isfinite(value)]
        super().__init__(
            {f"settings/{name}": space for name, space in _distributions(study).items()},
            metric=_VALUE,
            mode="max",
            seed=study.seed,
            points_to_evaluate=[{f"settings/{name}": v for name, v in trial.values.items()} for trial, _ in answered],
            evaluated_rewards=[value for _, value in answered],
        )
        for trial in progress.trials():
            if trial.missing(study):
                self._ot_study.enqueue_trial({f"settings/{name}": value for name, value in trial.values.items()})

    def suggest(self, trial_id: str) -> Any:
        """A combination to train, `FINISHED` when there are enough, or None while all that come to mind are under way.

        Tune's names are fixed by its interface.
        """
        for _ in range(_PATIENCE):
            under_way = {canonical(values) for values in self._asked.values()}
            if self._progress.whole() + len(under_way) + len(self._lost) >= self._of.trials:
                return tune.search.Searcher.FINISHED if not under_way else None
            suggestion = super().suggest(trial_id)
            values = _ordered(self._of, suggestion["settings"])
            if self._progress.trial(values).missing(self._of) and canonical(values) not in under_way | self._lost:
                self._asked[trial_id] = values
                return suggestion
            self._tell(trial_id, values)
            del self._ot_trials[trial_id]
            self._completed_trials.discard(trial_id)
        return None if self._asked else tune.search.Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial has one value, at its end."""

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        if trial_id in self._asked:
            values = self._asked.pop(trial_id)
            if error:
                self._lost.add(canonical(values))
            self._tell(trial_id, values)

    def _tell(self, trial_id: str, values: Mapping[str, Any]) -> None:
        value = self._progress.trial(values).value(self._of)
        whole = math.isfinite(value)
        super().on_trial_complete(trial_id, {_VALUE: value} if whole else None, error=not whole)


def _distributions(study: Study) -> dict[str, optuna.distributions.BaseDistribution]:
    space: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, allowed in study.space.items():
        if not isinstance(allowed, Mapping):
            space[name] = optuna.distributions.CategoricalDistribution(allowed)
        elif isinstance(study.base[name], int):
            space[name] = optuna.distributions.IntDistribution(allowed["low"], allowed["high"], log=allowed["log"])
        else:
            space[name] = optuna.distributions.FloatDistribution(allowed["low"], allowed["high"], log=allowed["log"])
    return space


def _quiet_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune's log tells of files that are not written and of trials whose errors are returned."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.air")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
