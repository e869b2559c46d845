"""What the command line shows people: tables and the progress bar. Takes plain values, decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tim_search.gates import small_cells
from tim_search.loop.run import Event
from tim_search.tim.scores import TimResult, surest
from tim_search.types import duration, some

#: Characters a column of the TIM matrix takes; a matrix that does not fit the terminal is shown as a list.
_CELL = 11
#: Sources that are told one by one; of more only those with the surest effects.
_SOURCES = 20
#: Cells that are told of a matrix with more sources, and of one source with more helpers and harmers.
_CELLS = 40


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Event], None]]:
    """A progress bar (done / total, rate, time left) fed by a search's events; nothing at all without a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("starting Ray", total=None, rate="")
        first: Event | None = None

        def tell(event: Event) -> None:
            nonlocal first
            if event.kind == "round" and first is None:
                first = event
            rate = ""
            if event.kind == "pack" and first is not None and event.done > first.done:
                per_second = (event.done - first.done) / max(event.seconds - first.seconds, 1e-9)
                rate = f"{per_second:.2g}/s, {duration((event.total - event.done) / per_second)} left"
            if event.kind == "stopping":
                console.print(event.message, highlight=False)
            training = "training" if event.round == 1 else f"training, round {event.round}"
            begins = "starting Ray" if event.round == 1 else training
            words = {"round": begins, "pack": training, "stopping": "stopping", "done": "figures and MLflow"}
            bar.update(
                task,
                description=words[event.kind],
                completed=event.done,
                total=event.total,
                rate=rate,
            )

        yield tell


@contextmanager
def steps(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar fed with (what is done, rows done, rows in all or None); nothing at all without a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def tell(what: str, done: int, total: int | None) -> None:
            if bar.tasks[0].description != what:
                bar.reset(task, description=what)
            bar.update(task, description=what, completed=done, total=total)

        yield tell


def overlaps(tasks: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> Table | None:
    """The pairs of tasks whose targets overlap most, declared ones too; None where no pair overlaps by half."""
    found = [
        (value, a, b)
        for i, a in enumerate(tasks)
        for j, b in enumerate(tasks)
        if i < j and (value := matrix[i][j]) is not None and value >= 0.5
    ]
    if not found:
        return None
    table = Table(
        "overlap", "task", "task", title="Targets that overlap (0 to 1)", box=box.SIMPLE, title_justify="left"
    )
    for value, a, b in sorted(found, reverse=True)[:10]:
        table.add_row(f"{value:.2f}", a, b)
    if len(found) > 10:
        table.caption = f"and {len(found) - 10} more pairs; all of them with --json"
    return table


def haim(manifest: Mapping[str, Any]) -> Group:
    """Counts after each filter, and of each task, of a cohort made from HAIM's files."""
    rows = Table("", "rows", "stays", "admissions", "patients", title="Counts", box=box.SIMPLE, title_justify="left")
    for step in manifest["steps"]:
        counts = (step["rows"], step["haim_ids"], step["admissions"], step["patients"])
        rows.add_row(step["what"], *(f"{count:,}" for count in counts))
    for view in manifest["views"]:
        counts = (view["rows"], view["haim_ids"], view["admissions"], view["patients"])
        rows.add_row(f"of these, {view['what']}", *(f"{count:,}" for count in counts), style="dim")
    tasks = Table("task", "labels", "positive", title="Tasks", box=box.SIMPLE, title_justify="left")
    for name, count in manifest["tasks"].items():
        share = f"{count['positives'] / count['labelled']:.1%}" if "positives" in count else ""
        tasks.add_row(name, f"{count['labelled']:,}", share)
    lines = [f"Published: {whose}: {numbers}" for whose, numbers in manifest["published"].items()]
    lines += [f"Keys: {manifest['keys']}; {manifest['admissions']}", f"Diagnoses: {manifest['diagnoses']}"]
    lacking = {prefix: source["absent"] for prefix, source in manifest["sources"].items() if source["absent"]}
    if lacking:
        lines += ["Absent: " + ", ".join(f"{prefix} in {count:,} samples" for prefix, count in lacking.items())]
    lines += [f"Left out: {name}: {why}" for name, why in manifest["left_out"].items()]
    lines += [f"Never inputs: {', '.join(manifest['closed'])} (manifest.json says why)"]
    return Group(rows, tasks, Text("\n".join(lines)))


def interval(low: float | None, high: float | None) -> str:
    """`[-0.003, +0.011]`, or nothing where there is none."""
    return "" if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def pairs(rows: Mapping[str, Any]) -> Table:
    """Names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(str(value)))
    return table


def tuning(record: Mapping[str, Any]) -> Table:
    """The trials of a study, best first; of the others how much less they reach, fold by fold."""
    tuned_for = " + ".join(record["subset"]) if record["subset"] else "the search"
    table = _table(f"Settings tried for {tuned_for}", *record["space"], "mean skill", "less than the chosen")
    best = next(trial for trial in record["trials"] if trial["values"] == record["choice"])
    order = sorted(
        record["trials"],
        key=lambda trial: (trial is not best, np.inf if trial["skill"] is None else -trial["skill"]),
    )
    for trial in order:
        words = "chosen" if trial is best else "not comparable: a training failed or is missing"
        if trial is not best and trial["skill"] is not None:
            less = np.subtract(best["by_fold"], trial["by_fold"])
            error = f" ± {less.std(ddof=1) / np.sqrt(len(less)):.4f}" if len(less) > 1 else ""
            words = f"{less.mean():.4f}{error}"
        skill = "" if trial["skill"] is None else f"{trial['skill']:.4f}"
        style = "bold" if trial is best else ""
        table.add_row(*(Text(str(value)) for value in trial["values"].values()), skill, words, style=style)
    return table


def helpers(sources: Sequence[Mapping[str, Any]], label: str) -> Table:
    """For every source the two best helpers and the worst harmer, from `summary.report`, one a line.

    Of many sources those with the surest effects: the largest beside its interval, discoveries first.
    """

    def sure(row: Mapping[str, Any]) -> tuple[bool, float]:
        told = [one for one in row["helpers"] if not one["overlaps"]]
        size = max((abs(one["estimate"]) / _width(one) for one in told), default=0.0)
        return any(one["rejected"] for one in told), size

    shown = _most(sources, sure)
    which = f", the {len(shown)} surest of {len(sources)} source tasks" if len(shown) < len(sources) else ""
    table = _table(
        f"What helps, what harms ({label}{which})", "source task", "", "trained with", "TIM score", "interval"
    )
    for row in shown:
        gains = [one for one in row["helpers"] if one["estimate"] > 0][:2]
        losses = [one for one in row["helpers"] if one["estimate"] < 0][-1:]
        for place, one in enumerate([*gains, *losses]):
            marks = ("*" if one["rejected"] else "") + (" ~" if one["overlaps"] else "")
            table.add_row(
                Text(row["source"] if place == 0 else "", style="bold"),
                "helps" if one["estimate"] > 0 else "harms",
                Text(one["task"]),
                Text(f"{one['estimate']:+.4f}", style=_colour(one["estimate"])).append(marks),
                interval(one["low"], one["high"]),
                end_section=place == len(gains) + len(losses) - 1,
            )
    return table


def _width(one: Mapping[str, Any]) -> float:
    """Of an interval; of what has none so much that it counts as less sure than all that have one."""
    return 1e9 if one["low"] is None or one["high"] is None else max(one["high"] - one["low"], 1e-12)


def _most(rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> list[Mapping[str, Any]]:
    """The first `_SOURCES` rows by `key`, largest first, in their own order."""
    kept = sorted(sorted(range(len(rows)), key=lambda place: key(rows[place]), reverse=True)[:_SOURCES])
    return [rows[place] for place in kept]


def _gains(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """How much a row of `expansion.rows` is worth telling: what holds, what was grown, what is known."""
    gain = row["gain"] if row["size"] > 1 and row["gain"] is not None else -np.inf
    return row["holds"], row["size"] > 1, gain / _width(row)


def combinations(sources: Sequence[Mapping[str, Any]]) -> Table:
    """For every source its best combination by the paper's rule and by the rule that asks for certainty.

    Of many sources those with the surest gains.
    """
    shown = _most(sources, lambda row: (*_gains(row["lower_bound"]), *_gains(row["paper"])))
    which = f"{len(shown)} of {len(sources)} source tasks" if len(shown) < len(sources) else "each source task"
    table = _table(f"Best combination of {which}", "source task", "rule", "trained with", "gain", "interval")
    for row in shown:
        alone = "not trained" if row["single_score"] is None else f"{row['single_score']:.4f}"
        heads = (Text(row["source"], style="bold"), Text(f"{row['metric']} {alone}", style="dim"))
        for head, rule, words in zip(heads, ("paper", "lower_bound"), ("paper", "lower bound"), strict=True):
            found = row[rule]
            known = found["size"] > 1 and found["gain"] is not None
            table.add_row(
                head,
                words,
                _partners(row["source"], found),
                Text(f"{found['gain']:+.4f}", style="bold" if found["holds"] else "") if known else "",
                interval(found["low"], found["high"]) if known else "",
                end_section=rule == "lower_bound",
            )
    return table


def _table(title: str, *columns: str) -> Table:
    """A plain table that fits 80 characters where task names are of ordinary length."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("rule", "gain", "interval"))
    return table


def _partners(source: str, found: Mapping[str, Any]) -> Text:
    flagged = {name: f"{name} ~" for name in found["overlapping"]}
    others = [flagged.get(name, name) for name in found["best"].split(" + ") if name != source]
    waiting = "" if found["complete"] else " (so far)"
    return Text(" + ".join(others) + waiting) if others else Text(f"alone{waiting}", style="dim")


#: Said where no source's expansion has come to its end.
NO_COMBINATIONS = (
    "Best combinations: not known, because the single tasks and pairs they start from are not all trained. Search them "
    "with `design: greedy`; of a sampled search, `tim-search confirm --rule predicted` tests the best that its model "
    "predicts."
)


def report(content: Mapping[str, Any]) -> Group:
    """The end of a run: helpers, combinations, and what the marks mean."""
    sharing = content["sharing"]
    marks = [
        "* a discovery at a false discovery rate of 10 %.  ~ near-identical or nested targets: no transfer to be read.",
        *content["notes"],
    ]
    if len(content["sources"]) > _SOURCES:
        marks.append(
            "All sources are in tables/ of the search folder, in the report, and with --json; one of them: "
            "tim-search tim DIR --source TASK."
        )
    if any(row[rule]["complete"] for row in content["sources"] for rule in ("paper", "lower_bound")):
        best: RenderableType = combinations(content["sources"])
        marks += [
            "Rules: paper takes the highest mean score; lower bound only a gain whose whole interval is above zero.",
            "Intervals are 95 %. A gain was chosen and measured on the same scores, so it is optimistic.",
            f"Trainings of the expansion: {sharing['shared']} (shared), {sharing['alone']} (each source alone).",
        ]
    else:
        best = Text(NO_COMBINATIONS)
    return Group(
        helpers(content["sources"], content["label"]),
        best,
        *(Text(f"  {line}", style="dim") for line in marks),
        "",
    )


def places(rows: Mapping[str, Any]) -> str:
    """Names and places, one a line, however long: they are there to be copied."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def plan(content: Mapping[str, Any]) -> RenderableType:
    """What a search would train, from `forecast.forecast`."""
    seconds, wall = content["worker_seconds"], content["wall_seconds"]
    units = content["units"]
    rows = {
        "search": f"{content['name']}: {names(content['tasks'])}",
        "design": ", ".join(f"{key} {_words(value)}" for key, value in content["design"].items()).removeprefix("kind "),
        "blocks": ", ".join(f"seed {seed} fold {fold}" for seed, fold in content["blocks"]),
        "units in all": (f"decided as it goes, at most {content['at_most']}" if units is None else str(units))
        + (f", each with {content['combinations']} combinations of settings" if content["combinations"] > 1 else ""),
        "in the ledger": content["held"],
        "to be trained": f"{content['todo']}{' in the next round' if units is None else ''}",
        "by subset size": ", ".join(f"{size}: {count}" for size, count in content["by_size"].items()) or "none",
        "packs": f"{content['packs']}, of at most {content['largest_pack']} units",
        "training time": duration(seconds) if seconds is not None else "not measured: this machine has no GPU",
    }
    if wall is not None and seconds:
        workers = f"{content['workers']} worker{'s' * (content['workers'] != 1)}"
        rows["expected"] = f"about {duration(wall)} with {workers} of this machine's speed"
    if content["power"] is None:
        return pairs(rows)
    power = content["power"]
    known = {name: value for name, value in power["smallest"].items() if value is not None}
    if not known:
        rows["smallest effect"] = "not known before some of it is trained; --pilot trains the first subsets"
        return pairs(rows)
    rows["smallest effect"] = (
        f"with {power['subsets']} subsets, a TIM score of this size is told from zero in four of five searches "
        f"(from {power['pilot_units']} units of the ledger):"
    )
    table = Table.grid(padding=(0, 2))
    for name, value in power["smallest"].items():
        table.add_row("", Text(name), "too few scores yet" if value is None else f"{value:.2g}")
    return Group(pairs(rows), table, *(Text(f"  {note}", style="dim") for note in power["notes"]))


def names(tasks: Sequence[str]) -> str:
    """The tasks of a search; of many the first ones, and how many there are."""
    return ", ".join(tasks) if len(tasks) <= _SOURCES else f"{len(tasks)} tasks: {some(tasks)}"


def _words(value: Any) -> str:
    """A setting of a design as people read it."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {inner}" for key, inner in value.items()) + ")"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def matrix(result: TimResult, width: int, overlaps: Iterable[tuple[str, str]] = ()) -> RenderableType:
    """The TIM scores, row = source task; as a list where the terminal is too narrow for the matrix.

    Of many tasks the list holds the surest scores of pairs that are not among `overlaps`.
    """
    if _CELL * (len(result.tasks) + 1) > width:
        return _listed(result) if len(result.tasks) <= _SOURCES else _surest(result, overlaps)
    table = _table(f"{result.label}; row = source task", "")
    for name in result.tasks:
        table.add_column(Text(name), justify="right", overflow="fold", max_width=_CELL)
    for i, source in enumerate(result.tasks):
        cells = [Text("") if i == j else _cell(result, i, j) for j in range(len(result.tasks))]
        table.add_row(Text(source, style="bold"), *cells)
    return Group(table, *_notes(result))


def _cell(result: TimResult, i: int, j: int) -> Text:
    value = float(result.estimate[i, j])
    if not np.isfinite(value):
        return Text("-", style="dim")
    mark = "*" if result.rejected[i, j] else ""
    return Text(f"{value:+.4f}{mark}", style=_colour(value))


def _colour(value: float) -> str:
    """As in the figures: red helps, blue harms."""
    return "red" if value > 0 else "blue"


def source(result: TimResult, name: str) -> RenderableType:
    """The TIM scores of one source task, best helper first."""
    return _listed(result, (name,))


def _surest(result: TimResult, overlaps: Iterable[tuple[str, str]]) -> RenderableType:
    """The surest scores of a matrix that nobody would read as a list."""
    cells = surest(result, overlaps)
    shown = cells[:_CELLS].tolist()
    table = _score_table(f"{result.label}: the {len(shown)} surest of {len(cells):,} scores")
    for i, j in shown:
        table.add_row(Text(result.tasks[i], style="bold"), *_score_row(result, i, j))
    more = "  All of them are in tables/tim.csv of the search folder and with --json; those of one task with --source."
    return Group(table, Text(more), *_notes(result))


def _listed(result: TimResult, sources: Sequence[str] = ()) -> RenderableType:
    table = _score_table(result.label)
    for name in sources or result.tasks:
        i = result.tasks.index(name)
        order = [j for j in np.argsort(-result.estimate[i]).tolist() if np.isfinite(result.estimate[i, j])]
        left_out = max(0, len(order) - _CELLS)
        for place, j in enumerate(order):
            if left_out and _CELLS // 2 <= place < len(order) - _CELLS // 2:
                if place == _CELLS // 2:
                    table.add_row("", Text(f"{left_out} more between; all with --json", style="dim"), "", "")
                continue
            first = Text(name if place == 0 else "", style="bold")
            table.add_row(first, *_score_row(result, i, j), end_section=j == order[-1])
    return Group(table, *_notes(result))


def _score_table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("source task", "task", "score", "interval"):
        table.add_column(column, overflow="fold")
    return table


def _score_row(result: TimResult, i: int, j: int) -> tuple[Text, Text, str]:
    """The task, its score and the interval of one cell."""
    known = np.isfinite(result.low[i, j])
    span = interval(float(result.low[i, j]), float(result.high[i, j])) if known else ""
    task = Text(result.tasks[j]).append(" (control)" if result.tasks[j] == result.control else "", style="dim")
    return task, _cell(result, i, j), span


def _notes(result: TimResult) -> list[Text]:
    lines = ["* a discovery: Benjamini-Hochberg at a false discovery rate of 10 %.", *result.notes]
    return [Text(f"  {line}", style="dim") for line in lines]


def grouping(content: Mapping[str, Any]) -> Group:
    """The models to deploy, what each serves, and the front: `grouping.record`."""
    unit = {"relative": "share won", "absolute": "gain"}[content["gain"]]
    title = f"Models to deploy, objective {content['objective']}"
    table = _table(title, "model", "serves", "alone", "score", "gain", "interval", *([unit] if unit != "gain" else []))
    for number, model in enumerate(content["models"], 1):
        alone = len(model["tasks"]) == 1
        for place, one in enumerate(model["serves"]):
            table.add_row(
                str(number) if place == 0 else "",
                Text(one["task"], style="bold"),
                f"{one['alone']:.4f}",
                f"{one['score']:.4f}" + (" ?" if one["predicted"] else ""),
                "" if alone else Text(f"{one['gain']:+.4f}", style=_colour(one["gain"])),
                "" if alone else interval(one["low"], one["high"]),
                *(["" if alone else f"{one['relative']:+.1%}"] if unit != "gain" else []),
                end_section=place == len(model["serves"]) - 1,
            )
    members = {
        f"  model {number}": " + ".join(model["tasks"]) + (" ?" if model["predicted"] else "")
        for number, model in enumerate(content["models"], 1)
    }
    front = _table("By the number of models", "models", "total gain", "interval", "worst gain")
    for one in content["front"]:
        mark = " ?" if one["predicted"] else ""
        front.add_row(
            f"{one['models']}",
            f"{one['total']:+.4f}{mark}",
            interval(one["low"], one["high"]),
            f"{one['worst']:+.4f}",
        )
    notes = [
        "Gains are against one model a task; share won: of what the task alone leaves to be won.",
        *(
            ["? predicted from other subsets, not measured."]
            if any(one["predicted"] for one in content["front"])
            else []
        ),
        *content["notes"],
    ]
    return Group(table, pairs(members), "", front, *(Text(f"  {line}", style="dim") for line in notes), "")


def expansions(rows: Sequence[Mapping[str, Any]], rule: str, title: str = "Greedy expansion") -> RenderableType:
    """The best combination of every source, one a line, and below why its search ended.

    Of many sources those with the surest gains.
    """
    shown = _most(rows, _gains)
    which = f", {len(shown)} of {len(rows)} source tasks; all of them with --json" if len(shown) < len(rows) else ""
    table = _table(
        f"{title} (rule: {rule}{which})", "source task", "alone", "best combination", "score", "gain", "interval"
    )
    for row in shown:
        grown = row["size"] > 1
        table.add_row(
            Text(row["source"], style="bold"),
            "" if row["single_score"] is None else f"{row['single_score']:.4f}",
            Text(row["best"]),
            "" if row["score"] is None else f"{row['score']:.4f}",
            f"{row['gain']:+.4f}" if grown and row["gain"] is not None else "",
            interval(row["low"], row["high"]) if grown else "",
        )
    by_reason: dict[str, list[str]] = {}
    for row in shown:
        by_reason.setdefault(row["reason"], []).append(row["source"])
    return Group(table, *(Text(f"  {names(told)}: {reason}", style="dim") for reason, told in by_reason.items()))


def confirmation(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> RenderableType:
    """What the test patients say of each source, one a line, and below it the verdicts and the baselines."""
    table = _table(
        "Combinations on untouched test patients", "source task", "trained with", "alone", "with", "gain", "interval"
    )
    verdicts = []
    shown = _most(rows, lambda row: (row["rejected"], abs(row["difference"] or 0.0) / _width(row)))
    if len(shown) < len(rows):
        notes = [f"The {len(shown)} surest of {len(rows)} sources are listed; all of them with --json.", *notes]
    for row in shown:
        others = " + ".join(name for name in row["chosen"].split(" + ") if name and name != row["source"])
        known = row["difference"] is not None
        table.add_row(
            Text(row["source"], style="bold"),
            Text(others or "alone", style="" if others else "dim"),
            f"{row['single']:.4f}" if known else "",
            f"{row['multi']:.4f}" if known else "",
            Text(f"{row['difference']:+.4f}", style=_colour(row["difference"])).append("*" if row["rejected"] else "")
            if known
            else "",
            interval(row["low"], row["high"]),
        )
        percent = "" if row["percent"] is None else f" ({row['percent']:+.1f} %)"
        baselines = [
            f"{words} {row[name]:.4f}"
            for name, words in (("together", "all tasks together"), ("ensemble", "an ensemble of single-task models"))
            if row[name] is not None
        ]
        reached = f"; {row['metric']} of {' and of '.join(baselines)}" if baselines else ""
        verdicts.append(f"{row['source']}: {row['verdict']}{percent}{reached}.")
    lines = ["* confirmed or refuted: a discovery (Benjamini-Hochberg) at a false discovery rate of 10 %.", *notes]
    return Group(table, *(Text(f"  {line}") for line in verdicts), *(Text(f"  {line}", style="dim") for line in lines))


def comparison(content: Mapping[str, Any]) -> Group:
    """Two searches side by side: `comparison.Comparison.record`. A score marked * has an interval without zero."""
    first, second = content["searches"]
    table = _table("TIM scores side by side", "source task", "trained with", first, second, "ranks agree")

    def score(cell: Mapping[str, Any], which: str, place: int) -> Text:
        value = cell[which]
        if value is None:
            return Text("")
        return Text(f"{value:+.4f}", style=_colour(value)).append("*" if cell["certain"][place] else " ")

    shown = content["cells"]
    if len(content["tasks"]) > _SOURCES:
        shown = _clearest(shown)
        table.title = (
            f"TIM scores side by side, the {len(shown)} clearest of {len(content['cells']):,}; all with --json"
        )
    for source in content["tasks"]:
        cells = [cell for cell in shown if cell["source"] == source]
        agree = content["rows"][source]
        for number, cell in enumerate(cells):
            table.add_row(
                Text(source if number == 0 else "", style="bold"),
                cell["task"],
                score(cell, "first", 0),
                score(cell, "second", 1),
                f"{agree:+.2f}" if number == 0 and agree is not None else "",
                end_section=number == len(cells) - 1,
            )
    facts = {}
    if content["agreement"] is not None:
        facts["rank agreement"] = (
            f"{content['agreement']:+.2f} on average; as far from 0 by chance: {content['chance']:.2f}"
        )
    if content["same_sign"] is not None:
        facts["same sign"] = f"{content['same_sign']:.0%} of the cells that are certain in both"
    return Group(table, pairs({**facts, **{f"note {n}": text for n, text in enumerate(content["notes"], 1)}}))


def _clearest(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of a comparison that are certain in both searches, then in one, then the largest of their rows."""
    largest: dict[str, float] = {}
    for cell in cells:
        largest[cell["source"]] = max(largest.get(cell["source"], 1e-300), abs(cell["first"] or 0.0))

    def clear(place: int) -> tuple[int, float]:
        cell = cells[place]
        size = abs(cell["first"] or 0.0) + abs(cell["second"] or 0.0)
        return sum(cell["certain"]), size / largest[cell["source"]]

    return [cells[place] for place in sorted(sorted(range(len(cells)), key=clear, reverse=True)[:_CELLS])]


def inside(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Scores of a subset with its tasks alone and without task tokens, mean (SD) over the seeds (`inside.Looked`)."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    table = _table("On the validation fold, mean (SD) over the seeds", "task", "metric", *variants)
    keys = dict.fromkeys((row["task"], row["metric"]) for row in rows)
    told = ""
    for task, metric in keys:
        said = {row["variant"]: row for row in rows if (row["task"], row["metric"]) == (task, metric)}
        cells = [
            f"{said[name]['mean']:.4f}" + (f" ({said[name]['sd']:.3f})" if said[name]["seeds"] > 1 else "")
            if name in said
            else ""
            for name in variants
        ]
        table.add_row(Text("" if task == told else task, style="bold"), metric, *cells)
        told = task
    return table


def test_scores(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A model's scores on the test patients, one task a line (`deploy.Trained.scores`)."""
    table = _table("Scores on the test patients", "task", "metric", "score", "SD (90 %)", "interval", "samples")
    for row in rows:
        known = row["value"] is not None
        table.add_row(
            Text(row["task"], style="bold"),
            row["metric"],
            f"{row['value']:.4f}" if known else Text(row["why"], style="dim"),
            f"{row['sd']:.4f}" if known and row["sd"] is not None else "",
            f"{row['low']:.4f} to {row['high']:.4f}" if known and row["low"] is not None else "",
            small_cells.told(row["rows"]),
        )
    return table


def extension(task: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Group:
    """What a new task reached from a model's start and from scratch: mean (SD over the seeds)."""
    table = _table(f"{task}: mean (SD over the seeds)", "labels", "samples", "metric", "pre-trained", "scratch", "gain")

    def cell(row: Mapping[str, Any], name: str, sign: str = "") -> str:
        if row[name] is None:
            return "none"
        spread = "" if row[f"{name}_sd"] is None else f" ({row[f'{name}_sd']:.3f})"
        return f"{row[name]:{sign}.3f}{spread}"

    for row in rows:
        table.add_row(
            f"{row['share']:.3g}" if row["share"] < 0.01 else f"{row['share']:.0%}",
            f"{small_cells.told(row['rows'])} ({small_cells.told(row['patients'])} patients)",
            row["metric"] if row["primary"] else Text(row["metric"], style="dim"),
            cell(row, "pretrained"),
            cell(row, "scratch"),
            cell(row, "difference", "+"),
        )
    return Group(table, *(Text(note, style="dim") for note in notes))
