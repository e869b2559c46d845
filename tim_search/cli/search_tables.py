"""Tables about searches: what one would train, what it found, what its rules choose, its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tim_search.cli.tables import (
    MOST_SOURCES,
    colour,
    dim_lines,
    interval,
    interval_width,
    names,
    pairs,
    plain_table,
    surest_rows,
)
from tim_search.types import duration, joined, parted
from tim_search.types.references import REFERENCES


def tuning(record: Mapping[str, Any]) -> Table:
    """The trials of a study, best first; of the others how much less they reach, fold by fold."""
    tuned_for = joined(record["subset"]) if record["subset"] else "the search"
    table = plain_table(f"Settings tried for {tuned_for}", *record["space"], "mean skill", "less than the chosen")
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


def helpers(sources: Sequence[Mapping[str, Any]], label: str, unlearnt: Collection[str] = ()) -> Table:
    """For every source the two best helpers and the worst harmer, from `summary.report`, one a line.

    Of many sources those with the surest effects: the largest beside its interval, discoveries first. One that has not
    learnt (`unlearnt`) has no findings.
    """

    def sure(row: Mapping[str, Any]) -> tuple[bool, float]:
        effects = [effect for effect in row["helpers"] if not effect["overlaps"]]
        size = max((abs(effect["estimate"]) / interval_width(effect) for effect in effects), default=0.0)
        return any(effect["rejected"] for effect in effects), size

    shown = surest_rows(sources, sure)
    which = f", the {len(shown)} surest of {len(sources)} source tasks" if len(shown) < len(sources) else ""
    table = plain_table(
        f"What helps, what harms ({label}{which})", "source task", "", "trained with", "TIM score", "interval"
    )
    for row in shown:
        if row["source"] in unlearnt:
            words = (Text(row["source"]), "", Text("has not learnt: no finding"), "", "")
            table.add_row(*words, style="dim", end_section=True)
            continue
        gains = [effect for effect in row["helpers"] if effect["estimate"] > 0][:2]
        losses = [effect for effect in row["helpers"] if effect["estimate"] < 0][-1:]
        for place, effect in enumerate([*gains, *losses]):
            marks = ("*" if effect["rejected"] else "") + (" ~" if effect["overlaps"] else "")
            table.add_row(
                Text(row["source"] if place == 0 else "", style="bold"),
                "helps" if effect["estimate"] > 0 else "harms",
                Text(effect["task"]),
                Text(f"{effect['estimate']:+.4f}", style=colour(effect["estimate"])).append(marks),
                interval(effect["low"], effect["high"]),
                end_section=place == len(gains) + len(losses) - 1,
            )
    return table


def _gains(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """How much a row of `expansion.rows` is worth telling: what holds, what was grown, what is known."""
    gain = row["gain"] if row["size"] > 1 and row["gain"] is not None else -np.inf
    return row["holds"], row["size"] > 1, gain / interval_width(row)


def combinations(sources: Sequence[Mapping[str, Any]]) -> Table:
    """For every source what the paper's rule chooses, and the rule that asks for certainty; the verdict stands above.

    Of many sources those with the surest gains.
    """
    shown = surest_rows(sources, lambda row: (*_gains(row["lower_bound"]), *_gains(row["paper"])))
    which = f"{len(shown)} of {len(sources)} source tasks" if len(shown) < len(sources) else "each source task"
    title = f"What two rules choose for {which} (the verdict decides)"
    table = plain_table(title, "source task", "rule", "trained with", "gain", "interval")
    for row in shown:
        alone = "not trained" if row["single_score"] is None else f"{row['single_score']:.4f}"
        heads = (Text(row["source"], style="bold"), Text(f"{row['metric']} {alone}", style="dim"))
        for head, rule, words in zip(heads, ("paper", "lower_bound"), ("paper", "lower bound"), strict=True):
            best = row[rule]
            grown = best["size"] > 1 and best["gain"] is not None
            table.add_row(
                head,
                words,
                _partners(row["source"], best),
                Text(f"{best['gain']:+.4f}", style="bold" if best["holds"] else "") if grown else "",
                interval(best["low"], best["high"]) if grown else "",
                end_section=rule == "lower_bound",
            )
    return table


def _partners(source: str, best: Mapping[str, Any]) -> Text:
    flagged = {name: f"{name} ~" for name in best["overlapping"]}
    others = [flagged.get(name, name) for name in parted(best["best"]) if name != source]
    waiting = "" if best["complete"] else " (so far)"
    return Text(joined(others) + waiting) if others else Text(f"alone{waiting}", style="dim")


#: Said where no source's expansion has come to its end.
NO_COMBINATIONS = (
    "Combinations: none can be chosen, because the single tasks and pairs they start from are not all trained. Search "
    "them with `design: greedy`; of a sampled search, `tim-search confirm --rule predicted` tests the best that its "
    "model predicts."
)


def answers(content: Mapping[str, Any]) -> Group:
    """The first lines: what has not learnt, one sentence a source, and each task beside its reference models.

    Args:
        content: of `summary.answers`.
    """
    lines = [Text(line, style="bold red") for line in content["not_learnt"]]
    lines += [Text(row["sentence"]) for row in content["verdicts"][:MOST_SOURCES]]
    if (more := len(content["verdicts"]) - MOST_SOURCES) > 0:
        lines.append(Text(f"and {more} more, in tables/verdicts.csv and with --json", style="dim"))
    return Group(*lines, *([references(content["references"])] if content["references"] else []))


def references(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Each task alone beside its reference models, and whether the network has learnt; of many tasks the worst."""
    shown = surest_rows(rows, lambda row: np.inf if row["behind"] is None else -row["behind"])
    title = "Each task alone beside its reference models"
    names_of = [name for name in REFERENCES if any(row[name] is not None for row in rows)]
    table = plain_table(title, "task", "alone", *names_of, "verdict")
    for row in shown:
        scores = ("" if row[name] is None else f"{row[name]:.3f}" for name in ("alone", *names_of))
        style = "bold red" if row["verdict"] == "has not learnt" else ""
        table.add_row(Text(row["task"]), *scores, Text(row["verdict"], style=style))
    return table


def report(content: Mapping[str, Any]) -> Group:
    """The end of a run: helpers, combinations, and what the marks mean."""
    sharing = content["sharing"]
    unlearnt = {row["task"] for row in content["references"] if row["verdict"] == "has not learnt"}
    marks = [
        "* a discovery at a false discovery rate of 10 %.  ~ near-identical or nested targets: no transfer to be read.",
        *content["notes"],
    ]
    if len(content["sources"]) > MOST_SOURCES:
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
        answers(content),
        helpers(content["sources"], content["label"], unlearnt),
        best,
        *dim_lines(marks),
        "",
    )


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
        "reference models": f"{content['references']} to be trained",
        "each training": steps_in_words(content["steps"]),
        "packs": f"{content['packs']}, of at most {content['largest_pack']} units",
        "training time": duration(seconds) if seconds is not None else "not measured: this machine has no GPU",
    }
    if not content["todo"]:
        rows["training time"] = "none: all that is asked for is in the ledger"
    if wall is not None and seconds:
        workers = f"{content['workers']} worker{'s' * (content['workers'] != 1)}"
        rows["expected"] = (
            f"about {duration(wall)} with {workers} of this machine's speed, {duration(content['start_seconds'])} of "
            "them until all has started"
        )
    if content["power"] is None:
        return pairs(rows)
    power = content["power"]
    if all(value is None for value in power["smallest"].values()):
        rows["smallest effect"] = "not known before some of it is trained; --pilot trains the first subsets"
        return pairs(rows)
    rows["smallest effect"] = (
        f"with {power['subsets']} subsets, a TIM score of this size is told from zero in four of five searches "
        f"(from {power['pilot_units']} units of the ledger):"
    )
    table = Table.grid(padding=(0, 2))
    for name, value in power["smallest"].items():
        table.add_row("", Text(name), "too few scores yet" if value is None else f"{value:.2g}")
    return Group(pairs(rows), table, *dim_lines(power["notes"]))


def steps_in_words(steps: Mapping[str, Any]) -> str:
    """How many steps a training makes, and whether the search file said so; `steps` is of `config.steps.length`."""
    epochs = steps["epochs"]
    words = f"{epochs} epoch{'s' * (epochs != 1)}" if epochs else "as long as its network trains"
    if steps["updates"]:
        words += f" of minibatches of {steps['batch_size']}, {steps['updates']} updates at most"
    if not steps["chosen"]:
        return words
    chosen = ", ".join(f"{name} {value}" for name, value in steps["chosen"].items())
    return f"{words} ({chosen}: chosen for {steps['rows']} training rows)"


def _words(value: Any) -> str:
    """A setting of a design as people read it."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {inner}" for key, inner in value.items()) + ")"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def expansions(rows: Sequence[Mapping[str, Any]], rule: str, title: str = "Greedy expansion") -> RenderableType:
    """What a rule chooses for every source, one a line, and below why its search ended.

    Of many sources those with the surest gains.
    """
    shown = surest_rows(rows, _gains)
    which = f", {len(shown)} of {len(rows)} source tasks; all of them with --json" if len(shown) < len(rows) else ""
    table = plain_table(
        f"{title} (rule: {rule}{which})", "source task", "alone", "rule's choice", "score", "gain", "interval"
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
    return Group(table, *(Text(f"  {names(sources)}: {reason}", style="dim") for reason, sources in by_reason.items()))
