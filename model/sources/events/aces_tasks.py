"""Outcomes written down as ACES configs (Xu et al., ICLR 2025), extracted by the library es-aces, piece by piece.

ACES reads a shard as one file. It is given a file for each piece of the events, so that it needs the memory of a piece,
and a subject that lies in two shards is whole.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model.sources.events.description import yaml_of
from model.sources.events.shards import STATIC, Events
from model.sources.sql import identifier, literal
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput


def extract(
    configs: Mapping[str, Path], predicates: Path | None, events: Events, tell: Callable[[str], None]
) -> dict[str, tuple[pd.DataFrame, bool]]:
    """What each config finds: its labels, and whether events at the prediction time belong to the outcome.

    Args:
        configs: by name of the task.
        predicates: a file of predicates that stand in for those of the same names in every config.

    Returns:
        by task: a frame with subject (int64), moment (int64, microseconds since 1970) and label (1.0 where the label's
        predicate occurs in the label's window, else 0.0); and the flag, see `outcome_begins`.

    Raises:
        BadInput: ACES is not installed, or a config says what it cannot read.
    """
    with tempfile.TemporaryDirectory(prefix="tim-search-aces-") as scratch, _quiet():
        home = Path(scratch)
        loaded = {name: _load(path, predicates, home) for name, path in configs.items()}
        columns = sorted({column for config in loaded.values() for column in _columns(config)})
        if lacking := [column for column in columns if column not in events.columns]:
            raise BadInput(
                f"The configs name the columns {', '.join(lacking)}, which the events do not have. They have: "
                f"{', '.join(events.columns)}. Mend the predicates."
            )
        parts: dict[str, list[pd.DataFrame]] = {name: [] for name in configs}
        piece = home / "piece.parquet"
        for subjects in events.pieces(events.subjects):
            tell(f"extracting {len(configs)} tasks, {len(subjects):,} subjects")
            _write_piece(events, columns, piece)
            for name, path in configs.items():
                # Anew for each piece: a query leaves its offsets in the config, and the next one would add them again.
                parts[name].append(_labels(path, _load(path, predicates, home), piece))
    return {name: (pd.concat(parts[name], ignore_index=True), outcome_begins(loaded[name])) for name in configs}


@contextmanager
def _quiet() -> Iterator[None]:
    """A context in which ACES says nothing.

    It narrates, and warns of every piece; what matters is told once, by the counts of the whole.
    """
    logger = logging.getLogger("aces")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load(path: Path, predicates: Path | None, home: Path) -> Any:
    """A config as ACES has it, read through copies that passed this product's limits for YAML."""
    try:
        from aces.config import TaskExtractorConfig
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{for_terminal(path)}: expected the library es-aces for ACES configs, it is not installed. Install "
            "tim-search[ehr], or give MEDS label tables."
        ) from error
    shared = None if predicates is None else _copy(predicates, home)
    copy = _copy(path, home)
    shown = for_terminal(path)
    try:
        config = TaskExtractorConfig.load(copy, shared)
    except Exception as error:  # ACES raises what its parser happens to meet
        problem = for_terminal(str(error).strip("'\""), most=300)
        raise BadInput(f"{shown}: expected an ACES config, it cannot be read ({problem}). Mend it.") from error
    lacking = {"label": config.label_window, "index_timestamp": config.index_timestamp_window}
    for key, window in lacking.items():
        if window is None:
            why = {"label": "which predicate is the outcome", "index_timestamp": "when the prediction is made"}[key]
            raise BadInput(f"{shown}: expected `{key}` in one of the windows, got none. It says {why}.")
    return config


def _copy(path: Path, home: Path) -> Path:
    """The path of a file's content, written anew from the values that this product's reader finds in it."""
    from tim_search.gates import yaml

    content = yaml_of(path)
    if not isinstance(content, dict):
        raise BadInput(f"{for_terminal(path)}: expected keys and values, as an ACES config has them. Mend it.")
    copy = home / f"{path.stem}.yaml"
    copy.write_text(yaml.dump(content), encoding="utf-8")
    return copy


def _columns(config: Any) -> set[str]:
    """Columns beside code and numeric_value that the predicates look at."""
    return {column for predicate in config.plain_predicates.values() for column in predicate.other_cols}


def _write_piece(events: Events, columns: list[str], target: Path) -> None:
    others = "".join(f", {identifier(name)}" if name != "text_value" else ", text AS text_value" for name in columns)
    events.engine.execute(
        f"COPY (SELECT subject AS subject_id, CASE WHEN moment > {STATIC} THEN make_timestamp(moment) END AS time, "
        f"code, value::FLOAT AS numeric_value{others} "
        f"FROM events ORDER BY subject, moment) TO {literal(target)} (FORMAT parquet)"
    )


def _labels(path: Path, config: Any, piece: Path) -> pd.DataFrame:
    """The labels of a config in a piece of the events."""
    from aces.predicates import get_predicates_df
    from aces.query import query
    from omegaconf import DictConfig

    try:
        predicates = get_predicates_df(config, DictConfig({"path": str(piece), "standard": "meds", "ts_format": None}))
        answer = query(config, predicates)
    except Exception as error:  # of polars, or of ACES
        problem = for_terminal(str(error).splitlines()[0] if str(error) else type(error).__name__, most=300)
        raise BadInput(f"{for_terminal(path)}: ACES cannot extract it ({problem}). Mend the config.") from error
    if not len(answer):
        return pd.DataFrame({"subject": np.empty(0, np.int64), "moment": np.empty(0, np.int64), "label": np.empty(0)})
    rows = answer.select("subject_id", "index_timestamp", "label").drop_nulls()
    return pd.DataFrame(
        {
            "subject": rows["subject_id"].to_numpy().astype(np.int64),
            "moment": rows["index_timestamp"].to_numpy().astype("datetime64[us]").astype(np.int64),
            "label": (rows["label"].to_numpy() > 0).astype(np.float64),
        }
    )


def outcome_begins(config: Any) -> bool:
    """Whether events at the prediction time itself belong to the outcome, and so may be no inputs.

    MEDS lets a prediction use what happened up to and including its time. A config says otherwise where the window that
    the prediction ends leaves its end out, or where the label's window begins at that moment and includes it.
    """
    name, label = config.index_timestamp_window, config.label_window
    window, target = config.windows[name], config.windows[label]
    moment = f"{name}.{window.index_timestamp}"
    left_out = window.index_timestamp == "end" and not window.end_inclusive
    own_start = name == label and window.index_timestamp == "start" and window.start_inclusive
    begins = str(target.start).strip() == moment and target.start_inclusive
    return bool(left_out or own_start or begins)
