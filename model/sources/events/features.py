"""Inputs of samples, from the events that each of them may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import text
from model.sources.events import windows
from model.sources.events.description import HOUR, Channel, Codes, Description, Sequence, Static, Vector
from model.sources.events.shards import STATIC, Events, Int64s
from model.sources.events.vocabulary import BIRTH, DEATH, Vocabulary
from model.sources.events.windows import Floats, Tracks
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

#: Older than this is nobody: data sets hide ages over 89 by a birth centuries ago. Such a subject is as old as OVER_89.
OLDEST, OVER_89 = 120.0, 90.0
_YEAR = 365.2425 * 24 * HOUR
#: Levels of a static code; rarer ones are not known.
_MOST_LEVELS = 50


@dataclass(frozen=True, eq=False)
class Signals:
    """What a modality reads: its signals, and which code means which.

    Attributes:
        name: of the modality.
        names: of the signals.
        signal: by code, which signal it is one of.
        scale: by code (factor, offset).
        low, high: by code, the values that are measurements, before they are scaled.
        bounds: (signals, 2), the values that are, after that.
        levels: by signal, its levels and what means each: texts, numbers as texts, or codes; () where it is a number.
        how: (signals,) how the values of an hour become one.
        columns: of the modality.
    """

    name: str
    names: tuple[str, ...]
    signal: Mapping[str, int]
    scale: Mapping[str, tuple[float, float]]
    low: Mapping[str, float]
    high: Mapping[str, float]
    bounds: Floats
    levels: tuple[Mapping[str, tuple[str, ...]], ...]
    how: NDArray[np.str_]
    columns: tuple[str, ...]


#: Events of a piece: subject, moment, code, value, text.
Frame: TypeAlias = pd.DataFrame


def signals_of(
    modality: Vector | Sequence | Static, description: Description, vocabulary: Vocabulary, events: Events
) -> Signals:
    """The signals of a modality, as the training subjects have them.

    Raises:
        BadInput: nothing is left of it, or a code stands in two channels.
    """
    if isinstance(modality, Static):
        return _static(modality, vocabulary)
    if isinstance(modality, Vector):
        codes = _vector_codes(modality, vocabulary, events)
        channels = {for_terminal(code): Channel(Codes((code,))) for code in codes.index}
        numeric = {for_terminal(code): bool(share >= 0.5) for code, share in codes["numeric"].items()}
        columns = tuple(
            f"{name} {_words(window)} {statistic}"
            for window in modality.windows
            for name in channels
            for statistic in modality.statistics
            if statistic == "count" or numeric[name]
        )
    else:
        channels = dict(modality.channels) or _common(modality, vocabulary)
        columns = tuple(column for name, channel in channels.items() for column in _columns(name, channel))
    if not columns:
        raise BadInput(
            f"modalities.{modality.name}: expected codes that the training subjects have before their predictions, got "
            "none. Widen its codes, or lower its share; metadata/codes.parquet lists the codes there are."
        )
    return _channels(modality.name, channels, columns, vocabulary, events)


def _words(window: int | str) -> str:
    return window if isinstance(window, str) else f"{window}h"


def _vector_codes(vector: Vector, vocabulary: Vocabulary, events: Events) -> pd.DataFrame:
    """The codes of a vector: common enough, with a time, and not given after the fact."""
    codes = vocabulary.matching(vector.codes, events.engine)
    codes = codes[
        (codes["subjects"] >= max(1.0, vector.share * vocabulary.subjects)) & ~codes.index.isin([BIRTH, DEATH])
    ]
    return (codes if vector.coded_later else codes[~codes["later"]]).head(vector.most)


def _common(sequence: Sequence, vocabulary: Vocabulary) -> dict[str, Channel]:
    """The numeric codes that most training subjects have in the hours of a sequence, by code."""
    codes = vocabulary.codes[(vocabulary.codes["numeric"] >= 0.5) & ~vocabulary.codes["later"]]
    codes = codes[codes["recent"] > 0].sort_values("recent", ascending=False, kind="stable").head(sequence.most)
    return {for_terminal(code): Channel(Codes((code,))) for code in codes.index}


def _columns(name: str, channel: Channel) -> list[str]:
    """A channel's columns: its value, or one for each level, and whether it was measured in the hour."""
    return [*([f"{name}={level}" for level in channel.levels] or [name]), f"{name} seen"]


def _channels(
    name: str, channels: Mapping[str, Channel], columns: tuple[str, ...], vocabulary: Vocabulary, events: Events
) -> Signals:
    signal: dict[str, int] = {}
    scale: dict[str, tuple[float, float]] = {}
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    bounds = np.full((len(channels), 2), np.nan)
    for number, (its_name, channel) in enumerate(channels.items()):
        learnt = vocabulary.matching(channel.codes, events.engine)
        given = channel.low is not None or channel.high is not None
        for code in dict.fromkeys([*channel.codes.exact, *learnt.index]):
            if signal.setdefault(code, number) != number:
                other = list(channels)[signal[code]]
                raise BadInput(
                    f"modalities.{name}: {for_terminal(code)} is in the channels {other} and {its_name}, and may be in "
                    "one. Narrow their codes."
                )
            scale[code] = channel.scale.get(code, (1.0, 0.0))
            row = learnt.loc[code] if code in learnt.index and not given and not channel.levels else None
            low[code], high[code] = (-np.inf, np.inf) if row is None else (row["low"], row["high"])
        bounds[number] = (
            -np.inf if channel.low is None else channel.low,
            np.inf if channel.high is None else channel.high,
        )
    levels = tuple(channel.levels for channel in channels.values())
    how = np.array([channel.how for channel in channels.values()])
    return Signals(name, tuple(channels), signal, scale, low, high, bounds, levels, how, columns)


def _static(static: Static, vocabulary: Vocabulary) -> Signals:
    """A signal for each prefix of the codes that hold at any time, and of those that are named."""
    codes = vocabulary.codes
    by_prefix: dict[str, list[str]] = {}
    timeless = set(codes.index[codes["static"] > 0])
    for code in codes.index.tolist():
        wanted = code in timeless or code.partition("//")[0] in static.prefixes
        if wanted and code not in (BIRTH, DEATH):
            by_prefix.setdefault(code.partition("//")[0], []).append(code)
    signal: dict[str, int] = {}
    levels: list[dict[str, tuple[str, ...]]] = []
    names: list[str] = []
    for prefix, of_prefix in sorted(by_prefix.items()):
        numeric = len(of_prefix) == 1 and bool(codes["numeric"][of_prefix[0]] >= 0.5)
        signal |= dict.fromkeys(of_prefix, len(names))
        names.append(for_terminal(prefix) if prefix != "age" else "age (code)")
        ranked = of_prefix[:_MOST_LEVELS]
        levels.append({} if numeric else {for_terminal(it.partition("//")[2] or it): (it,) for it in sorted(ranked)})
    columns = (*(["age"] if static.age else []), *names)
    if not columns:
        raise BadInput(f"modalities.{static.name}: expected codes without a time, got none. Set `age: true`.")
    low, high = ({code: float(codes[edge][code]) for code in signal} for edge in ("low", "high"))
    return Signals(
        static.name, tuple(names), signal, dict.fromkeys(signal, (1.0, 0.0)), low, high,
        np.tile([-np.inf, np.inf], (len(names), 1)), tuple(levels), np.array(["last"] * len(names)), columns,
    )  # fmt: skip


def tracks_of(frame: Frame, subjects: Int64s, signals: Signals) -> tuple[Tracks, int]:
    """The events of a piece that a modality reads, and how many values were no measurements.

    Args:
        subjects: (s,) of the piece, ascending.
    """
    code = frame["code"].cat.categories
    number = np.array([signals.signal.get(it, -1) for it in code], np.int64)[frame["code"].cat.codes]
    rows = frame[number >= 0]
    number = number[number >= 0]
    at_code = rows["code"].cat.codes.to_numpy()
    value = rows["value"].to_numpy(np.float64, copy=True)
    edges = np.array([(signals.low.get(it, -np.inf), signals.high.get(it, np.inf)) for it in code]).reshape(-1, 2)
    scale = np.array([signals.scale.get(it, (1.0, 0.0)) for it in code]).reshape(-1, 2)
    far = (value < edges[at_code, 0]) | (value > edges[at_code, 1])
    scaled = value * scale[at_code, 0] + scale[at_code, 1]
    far |= (scaled < signals.bounds[number, 0]) | (scaled > signals.bounds[number, 1])
    scaled[far] = np.nan
    for index, levels in enumerate(signals.levels):
        if levels:
            of_signal = number == index
            scaled[of_signal] = _level(rows[of_signal], levels)
    ranks = np.searchsorted(subjects, rows["subject"].to_numpy(np.int64))
    track = windows.tracks(ranks, number, rows["moment"].to_numpy(np.int64), scaled, len(signals.names))
    return track, int(far.sum())


def _level(rows: Frame, levels: Mapping[str, tuple[str, ...]]) -> Floats:
    """The number of the level that each event means, by its text, its number or its code; NaN for none."""
    meaning = {word: float(index) for index, words in enumerate(levels.values()) for word in words}
    parts = zip(rows["text"].tolist(), rows["value"].tolist(), rows["code"].astype(object).tolist(), strict=True)
    return np.array(
        [
            next((meaning[word] for word in (_word(content), text(value), code) if word in meaning), np.nan)
            for content, value, code in parts
        ],
        np.float64,
    )


def _word(content: Any) -> str:
    return content.strip() if isinstance(content, str) else ""


def vector_rows(
    vector: Vector, signals: Signals, track: Tracks, ranks: Int64s, until: Int64s, admitted: Int64s
) -> NDArray[np.float32]:
    """float32 (k, columns): counts and statistics; NaN throughout where a sample sees no event of the modality."""
    measured = track.measured()
    wanted = tuple(name for name in vector.statistics if name != "count")
    parts: dict[str, NDArray[Any]] = {}
    anything = np.zeros(len(ranks), bool)
    for window in vector.windows:
        begins = after(window, until, admitted)
        begin, end = track.between(ranks, begins, until)
        anything |= (end > begin).any(axis=1)
        numbers = windows.describe(measured, *measured.between(ranks, begins, until), until, wanted)
        for index, name in enumerate(signals.names):
            parts[f"{name} {_words(window)} count"] = (end - begin)[:, index]
            for at, statistic in enumerate(wanted):
                parts[f"{name} {_words(window)} {statistic}"] = numbers[:, index, at]
    table = np.stack([parts[column] for column in signals.columns], axis=1).astype(np.float32)
    table[~anything] = np.nan
    return table


def after(window: int | str, until: Int64s, admitted: Int64s) -> Int64s:
    """The moment after which the events of a window lie; what holds at any time lies in none."""
    if window == "all":
        return np.full_like(until, STATIC)
    # The admission itself belongs to the stay.
    return admitted - 1 if window == "stay" else until - int(window) * HOUR


def sequence_rows(
    sequence: Sequence, signals: Signals, track: Tracks, ranks: Int64s, until: Int64s
) -> NDArray[np.float32]:
    """float32 (k, hours, columns): values and whether each was measured; an hour without any measurement is NaN."""
    values = windows.hourly(track.measured(), ranks, until, sequence.hours, signals.how)
    seen = ~np.isnan(values)
    if sequence.carry:
        # The hour of the last measurement so far, of each sample and signal.
        hour = np.where(seen, np.arange(sequence.hours)[:, None], -1)
        hour = np.maximum.accumulate(hour, axis=1)
        carried = np.take_along_axis(values, np.maximum(hour, 0), axis=1)
        states = signals.how != "sum"
        values = np.where(states & (hour >= 0), carried, values)
    parts = []
    for index, levels in enumerate(signals.levels):
        value = values[:, :, index]
        parts += [np.where(np.isnan(value), np.nan, value == level) for level in range(len(levels))] or [value]
        parts.append(seen[:, :, index].astype(np.float64))
    table = np.stack(parts, axis=2).astype(np.float32)
    table[~seen.any(axis=2)] = np.nan
    return table


def static_rows(
    static: Static, signals: Signals, track: Tracks, ranks: Int64s, until: Int64s, born: Floats
) -> tuple[Floats, int]:
    """float64 (k, columns), codes of levels where a column has levels; and how many ages mean "over 89".

    Args:
        born: (k,) microseconds since 1970, NaN where nobody knows.
    """
    before = np.full_like(until, STATIC - 1)
    measured = track.measured()
    latest = windows.describe(measured, *measured.between(ranks, before, until), until, ("last",))[:, :, 0]
    age = (until - born) / _YEAR
    over = age > OLDEST
    age[over] = OVER_89
    age[age < 0] = np.nan
    return np.concatenate([age[:, None], latest], axis=1) if static.age else latest, int(over.sum())


def unseen(signals: Signals, vocabulary: Vocabulary) -> str:
    """Which signals of a modality no training subject has, as a sentence; empty where there are none."""
    seen = {signals.signal[code] for code in signals.signal if code in vocabulary.codes.index}
    lacking = [name for number, name in enumerate(signals.names) if number not in seen]
    return f"modalities.{signals.name}: no training subject has {some(lacking)}." if lacking else ""
