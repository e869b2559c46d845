"""The model card: what a trained combination is, for whom, how it was judged and what nobody checked. Facts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tim_search.gates import small_cells

#: Counts below this are not told exactly: they would speak of single patients.
FEWEST = 5


def write(facts: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown.

    Args:
        facts: source, subset, reason, overlaps, search, network, settings, created, versions, readings; cohort (its
            name), fingerprint, split; seeds; training: rows, patients, labels by task, samples present by modality, and
            how many of the rows chose the epoch (`stopping`); `extended`: tasks that were added afterwards, if any.
        scores: task, metric, value, sd, low, high, rows and why, by task.
        inputs: name, kind, shape of a row, columns, and levels by column, of each modality (`deployed.Inputs`).
    """
    training, seeds = facts["training"], facts["seeds"]
    nested = [one["kind"] for one in inputs if one["kind"] != "vector"]
    table = "rows.parquet" if nested else "rows.csv"
    chose = training.get("stopping", 0)
    lines = [
        f"# Model for {facts['source']}",
        "",
        f"Predicts {_and(facts['subset'])} for one sample at a time: the combination that the task search "
        f"`{facts['search']}` chose for `{facts['source']}` ({facts['reason']}).",
        "",
        *[
            f"`{name}` was added to the trained model afterwards, with parameters of its own that started from the "
            "model's shared ones; what the model says of its other tasks is unchanged.\n"
            for name in facts.get("extended", ())
        ],
        "## Use and limits",
        "",
        "- For research on the cohort it was trained on and on cohorts like it. It is no medical device, and its use "
        "in care was not examined.",
        "- Its scores hold for the test patients of this cohort alone: same origin, same time, same way of measuring.",
        "- A probability is a network's output; its calibration was not checked.",
        "- Tasks that help each other's prediction say nothing of causes.",
        *[
            f"- `{one}` and `{other}` overlap: their targets are near-identical or nested, so that a gain of the one "
            "by the other shows no transfer."
            for one, other in facts["overlaps"]
        ],
        "",
        "## Data",
        "",
        _table(
            ("", ""),
            [
                ("cohort", f"{facts['cohort']} (fingerprint {facts['fingerprint']}, split {facts['split']})"),
                ("trained on", f"{small_cells.told(training['rows'])} samples of "
                 f"{small_cells.told(training['patients'])} patients: the whole training part"
                 + (f", {_count(chose)} samples of which chose the epoch" if chose else "")),
                ("judged on", "the test patients, whom neither the search nor the training has seen"),
            ],
        ),
        "",
        _table(
            ("task", "training samples with a label", "positive"),
            [(name, _count(one["rows"]), _count(one["positive"]) if "positive" in one else "")
             for name, one in training["labels"].items()],
        ),
        "",
        _table(
            ("modality", "training samples that have it"),
            [(name, _count(count)) for name, count in training["present"].items()],
        ),
        "",
        "## Scores on the test patients",
        "",
        _table(
            ("task", "metric", "score", "SD of 5 draws of 90 %", "95 % interval", "test samples"),
            [(row["task"], row["metric"],
              *((_number(row["value"]), _number(row["sd"]), f"{_number(row['low'])} to {_number(row['high'])}")
                if not row["why"] else (f"none: {row['why']}", "", "")),
              small_cells.told(row["rows"])) for row in scores],
        ),
        "",
        "The SD is over five draws of 90 % of the test samples with replacement, as the M3H paper reports; the "
        "interval holds the 2.5 to 97.5 percentiles of 1,000 bootstrap draws of patients. Neither holds the noise of "
        "training with another seed. The labels of the test patients have been read "
        f"{_times(facts['readings'])} in this search's folder, this reading included (`test-readings.jsonl`).",
        "",
        "## Input",
        "",
        "One row a sample, columns in any order, named as below or as `modality.column`. Leave a cell empty where "
        "nothing was measured, and all columns of a modality out where the sample lacks it. Unknown columns, and a "
        "part of a modality's columns without the others, are errors. An unknown level counts as not measured.",
        "",
        *([_NESTED, ""] if nested else []),
        *[_input(one) for one in inputs],
        "",
        "## Running it",
        "",
        "```",
        f"tim-search predict MODEL {table}",
        "mlflow models predict -m MODEL -i "
        + ("rows.json -t json --env-manager local   # {\"inputs\": [{\"column\": value}]}" if nested
           else "rows.csv -t csv --env-manager local"),
        "mlflow models serve -m MODEL --env-manager local   # POST /invocations {\"inputs\": [{\"column\": value}]}",
        "```",
        "",
        *(["This model's network is code of its own, which has to be importable where the model runs; allow it with "
           "`--allow-code` or, for MLflow, TIM_SEARCH_ALLOW_CODE=1.", ""] if ":" in facts["network"] else []),
        "`MODEL` is this folder or its URI in MLflow. It needs tim-search in the environment that runs it, hence "
        "`--env-manager local`; `requirements.txt` pins the versions it was made with. The example beside the model "
        "is made up from means and first levels: it is no patient.",
        "",
        "## Making",
        "",
        _table(
            ("", ""),
            [
                ("network", f"{facts['network']}, "
                 + ", ".join(f"{key} {value}" for key, value in facts["settings"].items())),
                ("seeds", f"{', '.join(map(str, seeds))}" + (" (predictions are averaged)" if len(seeds) > 1 else "")),
                ("made", f"{facts['created']}, "
                 + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())),
            ],
        ),
        "",
        "## Not checked",
        "",
        "Calibration; subgroups (sex, age, origin); other hospitals and later years; drift; the harm of a wrong "
        "prediction; how people act on one.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


#: How rows with sequences or images are written.
_NESTED = (
    "A sequence or an image is one column, each cell a nested list (a Parquet file, a pandas frame or JSON; a CSV file "
    "cannot hold them): of a sequence the steps from the first on, each a list of its channels; of an image its "
    "channels, each a list of lines of pixels. An empty cell means that the sample lacks it, an empty place inside "
    "(null, NaN) that nothing was measured there."
)


def _input(one: Mapping[str, Any]) -> str:
    """One modality of the rows."""
    if one["kind"] == "image":
        channels, height, width = one["shape"]
        return f"- **{one['name']}**: one column of images, {channels} x {height} x {width} (channels, height, width)"
    columns = ", ".join(
        f"`{name}`" + (f" ({' / '.join(one['levels'][name])})" if name in one["levels"] else "")
        for name in one["columns"]
    )
    if one["kind"] == "sequence":
        steps, channels = one["shape"]
        return f"- **{one['name']}**: one column of up to {steps} steps of {channels} channels each: {columns}"
    return f"- **{one['name']}**: {columns}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _and(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _count(number: small_cells.Count) -> str:
    return f"fewer than {FEWEST}" if isinstance(number, int) and 0 < number < FEWEST else small_cells.told(number)


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
