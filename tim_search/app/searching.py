"""A search from Python in one call, and what comes of it as frames and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tim_search import config
from tim_search.app import cells, confirmer, deploy, forecast, own_data, runner, search_folder, tuning
from tim_search.app.opening import reopen
from tim_search.plans import expansion
from tim_search.report import page as reporting
from tim_search.report.panel import Panel, Rows, Shown
from tim_search.results import advice, confirmation, grouping, opened
from tim_search.results.verdicts import verdicts
from tim_search.types import BadInput, TimSearchError, counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tim_search.report.figures import HeatmapKind

#: What is told of a process that is at work on a search.
_WORK = ("doing", "pid", "host", "since")
#: Said when a call is interrupted outside of training, where the loop says more.
_STOPPED = "Stopped: the ledger holds all that was trained. Run the same cell again to go on."


def search(
    data: pd.DataFrame | str | Path | config.SearchFile,
    out: str | Path | None = None,
    *,
    patient: str | None = None,
    sample: str | None = None,
    tasks: own_data.Tasks = None,
    modalities: own_data.Modalities = None,
    address: str | None = None,
    allow_code: bool = False,
    **settings: Any,
) -> Search:
    """Run a search, or go on with it, and return what it has found; the same cell run again goes on where it ended.

    Context, ledger and folder are those of the command `tim-search run`, which can go on with this search and the other
    way round. An interrupted call leaves a search that goes on.

    Args:
        data: a frame or the file of a table, which becomes a cohort in `out`/cohort; a cohort folder or a built-in
            cohort; a search file; the folder of a search, to go on with it.
        out: the folder for everything the search writes. Default: that of the search file, else runs/NAME under the
            current folder; it is told.
        patient, sample, modalities: of a table, as of `tim_search.cohort`.
        tasks: those of the search, of a table as of `tim_search.cohort`; default: all of the cohort.
        address: of a Ray cluster; "serial" trains in this process, without Ray. Default: Ray on this machine.
        allow_code: whether a network of one's own, which the search names, may be imported.
        settings: what a search file may hold besides: name, design, blocks, training, network, tuning, ... Paths are
            relative to the current folder.

    Raises:
        BadInput: with everything that is wrong in the settings, or what keeps the search from being run.
        Interrupted: after an interruption; what was trained is in the ledger.
    """
    with cells.call(_STOPPED):
        roles = {"patient": patient, "sample": sample, "modalities": modalities}
        if isinstance(data, config.SearchFile) or not own_data.is_table(data):
            if given := [name for name, value in roles.items() if value is not None]:
                if isinstance(data, str | Path) and Path(data).suffix and not Path(data).exists():
                    raise BadInput(f"search: expected a table, got {data}, and there is no such file. Check its path.")
                raise BadInput(
                    f"search: expected no {' and no '.join(given)} beside a cohort or a search, whose columns are "
                    "known. Leave it out, or name a table."
                )
            file, out = _file(data, out, {"tasks": tasks, **settings}, allow_code)
        else:
            file, out = _of_table(data, out, {"tasks": tasks, **roles}, settings, allow_code)
        return _run(file, out, address, allow_code)


def _of_table(
    data: pd.DataFrame | str | Path,
    out: str | Path | None,
    roles: Mapping[str, Any],
    settings: Mapping[str, Any],
    allow_code: bool,
) -> tuple[config.SearchFile, Path]:
    """The search file of a table, which becomes a cohort in the output folder, and this folder."""
    raw = {name: value for name, value in settings.items() if value is not None}
    # What is wrong in the settings is told before the table is read.
    named = config.made({"cohort": "table", **raw}, "search", allow_code=allow_code)
    home = Path(out or named.out or Path("runs") / named.name).absolute()
    cohort = own_data.kept(data, home / "cohort", **roles)
    for finding in cohort.findings:
        cells.say(f"{finding.severity}: {finding}")
    if (tasks := roles["tasks"]) is not None:
        unlabelled = [name for name in tasks if name == own_data.PHENOTYPE and name not in cohort.tasks]
        raw["tasks"] = [*cohort.tasks, *unlabelled]
    return config.made({**raw, "cohort": str(cohort.folder)}, "search", allow_code=allow_code), home


def _file(
    data: Any, out: str | Path | None, settings: Mapping[str, Any], allow_code: bool
) -> tuple[config.SearchFile, str | Path | None]:
    """The search file of a call, and its output folder where that is fixed."""
    given = {name: value for name, value in settings.items() if value is not None}
    path = None if isinstance(data, config.SearchFile) else Path(data)
    begun = path is not None and (path / "search.json").exists()
    if path is not None and not begun and (path.is_dir() or not path.suffix):
        return config.made({"cohort": str(data), **given}, "search", allow_code=allow_code), out
    if given:
        raise BadInput(
            f"search: expected no {' and no '.join(given)} beside {path or 'a SearchFile'}, which says it all. Change "
            "it there, or name its cohort and the settings."
        )
    if isinstance(data, config.SearchFile):
        return data, out
    assert path is not None
    if begun:
        return config.load(path / "search.yaml", allow_code=allow_code), out or path
    return config.load(path, allow_code=allow_code), out


def _run(file: config.SearchFile, out: str | Path | None, address: str | None, allow_code: bool) -> Search:
    ready = config.resolve(file, out, allow_code=allow_code)
    cells.say(f"{runner.words(ready)}. Interrupt it when you like: run again, it goes on where it ended.")
    search_folder.check_folder(ready)
    if ready.awaits_tuning:
        with cells.progress() as tell:
            for record in tuning.tune(ready, (), address, tell, warn=cells.say):
                cells.say(f"Chosen: {', '.join(f'{name} {value}' for name, value in record['choice'].items())}")
        ready = config.resolve(file, out, allow_code=allow_code)
    if few := forecast.too_few(ready):
        cells.say(few)
    cells.say(f"{runner.start_words(address or ready.file.address)}.")
    with cells.progress(adaptive=ready.plan.planned(ready.blocks) is None) as tell:
        runner.run_search(ready, address, tell, warn=cells.say)
    return Search(ready.out, address=address, allow_code=allow_code)


class Search(Shown):
    """A search in its folder: what it has found, as frames and figures that a notebook shows.

    Opening it trains nothing and works at any moment, also while the search runs; open it again to see what was trained
    meanwhile.

    Args:
        folder: of a search, as `tim_search.search` or `tim-search run` made it.
        address: of a Ray cluster for what it trains later, or "serial"; default: the search's.
        allow_code: whether a network of one's own may be imported.

    Raises:
        BadInput: the folder holds no search.
    """

    def __init__(self, folder: str | Path, *, address: str | None = None, allow_code: bool = False) -> None:
        with cells.call(_STOPPED):
            self.results = opened.open_search(folder)
        self._address, self._allow_code = address, allow_code

    @property
    def folder(self) -> Path:
        """Everything that the search wrote."""
        return self.results.folder

    @property
    def status(self) -> dict[str, Any]:
        """How far the search is, and who is at work on it (see `SearchResults.status`)."""
        return self.results.status()

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row a source task: what to train it with, how sure that is, and why (`Verdict.record`)."""
        with cells.call(_STOPPED):
            return _frame([each.record() for each in verdicts(self.results).values()])

    def tim(self, method: Any = "auto", **options: Any) -> pd.DataFrame:
        """The TIM scores, a row a pair of source and task; `attrs` has their label and the notes on them.

        Args: as of `SearchResults.tim`; `size=3` scores models of at most three tasks.
        """
        with cells.call(_STOPPED):
            result = self.results.tim(method, **options)
            return _frame(result.frame(), label=result.label, notes=result.notes)

    def heatmap(self, kind: HeatmapKind = "value", ax: Axes | None = None, **options: Any) -> Figure | Axes:
        """The heatmap of the TIM scores by "value" or "rank", on a figure of its own or on `ax`; returns which it is.

        `options` as of `tim`.
        """
        # Imported here: matplotlib.
        from tim_search.report import gallery

        with cells.call(_STOPPED):
            drawn = gallery.heatmap(self.results, self.results.tim(**options), kind, ax)
        figure = drawn.get_figure(root=True)
        assert figure is not None
        return drawn if ax is not None else figure

    def expand(self, rule: expansion.Rule | None = None, **options: Any) -> pd.DataFrame:
        """The best combination of each source task (`expansion.rows`); `options` as of `SearchResults.greedy`."""
        with cells.call(_STOPPED):
            expansions, sharing = self.results.expand(rule, **options)
            return _frame(expansion.rows(expansions), trainings=sharing.shared)

    def confirm(self, rule: confirmer.Rule = "paper", **options: Any) -> pd.DataFrame:
        """Put the chosen combinations to the test on untouched test patients; one row a source.

        Trains with fresh seeds and writes down each reading of the test patients first. `options` as of
        `tim_search.app.confirmer.confirm`: sources, given, seeds, draws, groups. `attrs` has the notes.
        """
        with cells.call(_STOPPED), cells.progress() as tell:
            done = confirmer.confirm(
                self.folder, rule, address=self._address, allow_code=self._allow_code, on_event=tell, warn=cells.say,
                **options,
            )  # fmt: skip
            self.results = opened.open_search(self.folder)
            return _frame(done.rows, notes=done.notes)

    def group(self, models: int | None = None, *, train: bool = False, **options: Any) -> pd.DataFrame:
        """The few models to deploy, a row a task with the model that serves it; kept for the report too.

        Args:
            models: how many may be deployed; default: as few as gain the most.
            train: whether to train what the choice rests on unmeasured, and choose again, to the end.
            options: as of `SearchResults.group`: max_size, objective, gain.
        """
        with cells.call(_STOPPED):
            if train:
                again = reopen(
                    self.results, consequence="its choices do not hold", allow_code=self._allow_code, note=cells.say
                )
                with cells.progress(adaptive=True) as tell:
                    choice = runner.train_choice(
                        again, lambda results: results.group(models, **options), self._address, tell
                    )
                self.results = opened.open_search(self.folder)
            else:
                choice = self.results.group(models, **options)
            content = grouping.record(choice)
            opened.write_group(self.results, {"search": self.results.manifest.name, **content})
            rows = [
                {"model": " + ".join(model["tasks"]), "trained": not model["predicted"], **served}
                for model in content["models"]
                for served in model["serves"]
            ]
            return _frame(rows, total=content["total"], notes=content["notes"])

    def train(self, source: str, **options: Any) -> deploy.Trained:
        """A model for a source task to take away: trained, judged on the test patients, in MLflow.

        `options` as of `tim_search.train_model`: rule, members, despite, seeds, register. `.load()` of what is returned
        opens it to predict.
        """
        with cells.call(_STOPPED), cells.progress(f"training a model for {source}"):
            return deploy.train(
                self.folder, source, allow_code=self._allow_code, note=cells.say, warn=cells.say, **options
            )

    def report(self, path: str | Path | None = None, small_cells: int | None = None) -> Report:
        """One page with everything in it, written to `path`, by default report.html in the folder of the search."""
        with cells.call(_STOPPED):
            rows = confirmation.rows(self.results)
            return Report(reporting.write(self.results, path, small=small_cells, confirmation=rows).absolute())

    def panel(self) -> Panel:
        """The answer: a verdict a source, what has not learnt, the heatmap, and what to know beside."""
        results, status = self.results, self.results.status()
        name, counts = results.manifest.name, f"{status['trained']:,} of {status['trained'] + status['waiting']:,}"
        where = f"In {self.folder}. .verdicts, .tim(), .heatmap(), .expand(), .confirm(), .group(), .train(), .report()"
        warnings = [] if status["finished"] else [f"Not finished: {counts} units are trained. The same search goes on."]
        if (at_work := status["at_work"]) and at_work["running"]:
            about = (f"{key} {at_work[key]}" for key in _WORK if key in at_work)
            warnings.append(f"It is being worked on: {', '.join(about)}.")
        if not status["trained"]:
            return Panel(f"Search {name}", warnings, notes=[where])
        if status["failed"]:
            warnings.append(f"{status['failed']} units failed: {'; '.join(status['failures'])}")
        warnings += advice.advice(results)
        judged = verdicts(results).values()
        rows = [(each.source, each.sentence.removeprefix(f"{each.source}: ")) for each in judged]
        table = Rows("", ("source task", "verdict"), rows)
        try:
            result = results.tim()
        except TimSearchError as error:  # verdicts can be told before there are scores
            return Panel(f"Search {name}", warnings, tables=[table], notes=[str(error), where])
        title = f"Search {name}: {result.label} of {counted(len(result.tasks), 'task')}, {counts} units trained"
        return Panel(
            title, warnings, (), [table], self._picture(), f"Heatmap of the TIM scores: {result.label}",
            [*result.notes, where],
        )  # fmt: skip

    def _picture(self) -> bytes:
        from tim_search.report import figures, gallery

        drawn = gallery.heatmap(self.results, self.results.tim(), "value").get_figure(root=True)
        assert drawn is not None
        return figures.png(drawn)


class Report(Shown):
    """A page that was written; a notebook shows a link to it.

    Attributes:
        path: of the page.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def panel(self) -> Panel:
        """Where it is."""
        link = quote(os.path.relpath(self.path))
        return Panel(f"Report, {self.path.stat().st_size / 1e6:.1f} MB", link=link, link_says=str(self.path))


def _frame(rows: Sequence[Mapping[str, Any]], **about: Any) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    frame.attrs.update({name: list(value) if isinstance(value, tuple) else value for name, value in about.items()})
    return frame
