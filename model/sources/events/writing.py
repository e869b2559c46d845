"""The inputs of all samples, written piece by piece: one pass over the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.sources.events import features, references, windows
from model.sources.events.description import HOUR, Codes, Description, Reference, Sequence, Static, Vector
from model.sources.events.features import Signals
from model.sources.events.samples import SAMPLE, Samples
from model.sources.events.shards import STATIC, Events, Int64s
from model.sources.events.vocabulary import BIRTH, SHIFTED, Vocabulary, meant
from model.sources.haim_tables import Tell
from tim_search.types import BadInput

#: Samples that are described in one go.
_ROWS = 2048

#: A modality with values of its own, and what it reads.
Made = tuple[Vector | Sequence | Static, Signals]


@dataclass(eq=False)
class Count:
    """What is counted on the way.

    Attributes:
        far: by modality, values that are no measurements.
        over_89: ages that are hidden.
        earlier: samples with events of an earlier hospital stay among their inputs.
        references: by modality, how many.
    """

    far: dict[str, int] = field(default_factory=dict)
    over_89: int = 0
    earlier: int = 0
    references: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Piece:
    """The samples of a piece of subjects.

    Attributes:
        subjects: (s,) ascending.
        rows: int64 (k,), numbers of the samples.
        ranks: int64 (k,), which of the subjects each is of.
        last: int64 (k,), the last moment each may see.
        admitted: int64 (k,), when the latest hospital stay began; STATIC + 1 where none did.
        left: int64 (k,), when the stay before that ended; STATIC where none did.
        born: float64 (k,), NaN where nobody knows.
    """

    subjects: Int64s
    rows: Int64s
    ranks: Int64s
    last: Int64s
    admitted: Int64s
    left: Int64s
    born: NDArray[np.float64]


def write_inputs(
    events: Events,
    samples: Samples,
    last: Int64s,
    description: Description,
    vocabulary: Vocabulary,
    modalities: list[Made],
    folder: Path,
    tell: Tell,
) -> Count:
    """Write the file of every modality into modalities/ and references/ of a folder; returns what was counted.

    Args:
        last: int64 (n,), the last moment whose events a sample may see.
    """
    n, count = len(samples), Count()
    _register(events, vocabulary, modalities)
    arrays = {
        of.name: np.lib.format.open_memmap(
            folder / "modalities" / f"{of.name}.npy", "w+", np.float32, _shape(modality, of, n)
        )
        for modality, of in modalities
        if not isinstance(modality, Static)
    }
    fixed = {of.name: np.full((n, len(of.columns)), np.nan) for it, of in modalities if isinstance(it, Static)}
    quoted = [it for it in description.modalities if isinstance(it, Reference)]
    done = 0
    with references.writers(quoted, folder) as files:
        for subjects in events.pieces(np.unique(samples.subjects)):
            rows = np.flatnonzero(np.isin(samples.subjects, subjects))
            piece = _piece(events, subjects, rows, samples.subjects[rows], last[rows], description)
            frame = _read(events, piece)
            count.earlier += _with_earlier(frame, piece, modalities)
            for modality, of in modalities:
                track, far = features.tracks_of(frame, subjects, of)
                count.far[of.name] = count.far.get(of.name, 0) + far
                into = fixed if isinstance(modality, Static) else arrays
                for block in _blocks(len(rows)):
                    into[of.name][rows[block]] = _inputs(modality, of, track, piece, block, count)
            for reference in quoted:
                more = references.write_rows(
                    reference, events, samples, rows, piece.last, piece.admitted, files[reference.name]
                )
                count.references[reference.name] = count.references.get(reference.name, 0) + more
            done += len(rows)
            tell("writing inputs of samples", done, n)
    _finish(modalities, arrays, fixed, samples, folder)
    return count


def _register(events: Events, vocabulary: Vocabulary, modalities: list[Made]) -> None:
    """Tell DuckDB which codes are read, which of them for their texts, and which are stamped with a day."""
    wanted = sorted({code for _, of in modalities for code in of.signal})
    by_day = set(vocabulary.codes.index[vocabulary.codes["by_day"]])
    worded = {code for _, of in modalities for code, number in of.signal.items() if of.levels[number]}
    table = {"code": pa.array(wanted, pa.string()), "by_day": [code in by_day for code in wanted]}
    events.engine.register("wanted", pa.table({**table, "worded": [code in worded for code in wanted]}))
    events.engine.register("days", pa.table({"code": pa.array(sorted(by_day), pa.string())}))


def _inputs(
    modality: Vector | Sequence | Static,
    of: Signals,
    track: windows.Tracks,
    piece: _Piece,
    block: slice,
    count: Count,
) -> NDArray[Any]:
    """The inputs of a block of samples."""
    ranks, last = piece.ranks[block], piece.last[block]
    if isinstance(modality, Vector):
        return features.vector_rows(modality, of, track, ranks, last, piece.admitted[block])
    if isinstance(modality, Sequence):
        return features.sequence_rows(modality, of, track, ranks, last)
    values, over = features.static_rows(modality, of, track, ranks, last, piece.born[block])
    count.over_89 += over
    return values


def _shape(modality: Vector | Sequence, signals: Signals, n: int) -> tuple[int, ...]:
    return (n, modality.hours, len(signals.columns)) if isinstance(modality, Sequence) else (n, len(signals.columns))


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, n, _ROWS))


def _piece(
    events: Events, subjects: Int64s, rows: Int64s, of: Int64s, last: Int64s, description: Description
) -> _Piece:
    """The samples of a piece, with what is known of their stays."""
    births = events.ask(
        f"SELECT subject, min(moment) AS born FROM events WHERE code = '{BIRTH}' AND moment > {STATIC} GROUP BY subject"
    )
    born = np.full(len(subjects), np.nan)
    born[np.searchsorted(subjects, births["subject"].to_numpy())] = births["born"].to_numpy()
    ranks = np.searchsorted(subjects, of)
    admitted = _latest(events, description.admission, subjects, ranks, last)
    left = _latest(events, description.discharge, subjects, ranks, admitted)
    return _Piece(subjects, rows, ranks, last, np.maximum(admitted, STATIC + 1), left, born[ranks])


def _latest(events: Events, codes: Codes, subjects: Int64s, ranks: Int64s, until: Int64s) -> Int64s:
    """The latest moment up to `until` of an event with one of the codes; STATIC where there is none."""
    table = events.ask(f"SELECT subject, moment FROM events WHERE {meant(codes)} AND moment > {STATIC}")
    place = np.searchsorted(subjects, table["subject"].to_numpy())
    moment = table["moment"].to_numpy()
    track = windows.tracks(place, np.zeros_like(place), moment, np.zeros(len(place)), 1)
    begin, end = (edge[:, 0] for edge in track.between(ranks, np.full_like(until, STATIC), until))
    return np.where(end > begin, np.append(track.at, STATIC)[end - 1], STATIC)


def _read(events: Events, piece: _Piece) -> features.Frame:
    """The events of a piece that any modality reads and any sample may see."""
    latest = np.full(len(piece.subjects), STATIC)
    np.maximum.at(latest, piece.ranks, piece.last)
    events.engine.register("walls", pa.table({"subject": piece.subjects, "wall": latest}))
    answer = events.ask(
        f"SELECT * EXCLUDE (wall) FROM (SELECT e.subject, {SHIFTED.format(days='by_day')} AS moment, e.code, e.value, "
        "CASE WHEN worded THEN e.text END AS text, wall "
        "FROM events e JOIN wanted USING (code) JOIN walls USING (subject)) WHERE moment <= wall"
    )
    frame = pd.DataFrame({name: answer[name].to_numpy() for name in ("subject", "moment", "value")})
    frame["text"] = answer["text"].to_pandas()
    frame["code"] = pd.Categorical(answer["code"].cast(pa.string()).to_pandas())
    return frame


def _with_earlier(frame: features.Frame, piece: _Piece, modalities: list[Made]) -> int:
    """How many samples have events of an earlier stay among their inputs: before its end, and in a window."""
    after = piece.last.copy()
    for modality, _ in modalities:
        if isinstance(modality, Vector):
            for window in modality.windows:
                after = np.minimum(after, features.after(window, piece.last, piece.admitted))
        elif isinstance(modality, Sequence):
            after = np.minimum(after, piece.last - modality.hours * HOUR)
    place = np.searchsorted(piece.subjects, frame["subject"].to_numpy())
    track = windows.tracks(place, np.zeros_like(place), frame["moment"].to_numpy(), np.zeros(len(place)), 1)
    begin, end = track.between(piece.ranks, after, piece.left)
    return int((end > begin).sum())


def _finish(
    modalities: list[Made],
    arrays: Mapping[str, Any],
    fixed: Mapping[str, NDArray[np.float64]],
    samples: Samples,
    folder: Path,
) -> None:
    """Write the static modalities, and see that every sample has some input."""
    there = np.zeros(len(samples), bool)
    everything: list[NDArray[Any]] = [*arrays.values(), *fixed.values()]
    for array in everything:
        for block in _blocks(len(samples)):
            part = array[block]
            there[block] |= ~np.isnan(part).reshape(len(part), -1).all(axis=1)
    counting = [(it, of) for it, of in modalities if isinstance(it, Vector) and "count" in it.statistics]
    if not there.all():
        if not counting:
            raise BadInput(
                f"{int((~there).sum())} samples have no input at all (e.g. {samples.ids[~there][0]}). Add a vector "
                "with the statistic count: nothing happened is then an input, too."
            )
        # That nothing was written down of them is all that is known.
        columns = [index for index, name in enumerate(counting[0][1].columns) if name.endswith(" count")]
        for row in np.flatnonzero(~there).tolist():
            arrays[counting[0][1].name][row, columns] = 0
    for array in arrays.values():
        array.flush()
    for modality, signals in modalities:
        if isinstance(modality, Static):
            _write_static(modality, signals, fixed[signals.name], samples, folder)


def _write_static(
    static: Static, signals: Signals, values: NDArray[np.float64], samples: Samples, folder: Path
) -> None:
    """A static modality as Parquet: levels as texts."""
    columns: dict[str, pa.Array] = {SAMPLE: pa.array(samples.ids, pa.string())}
    levels: list[Mapping[str, Any]] = [*([{}] if static.age else []), *signals.levels]
    for index, (name, of_column) in enumerate(zip(signals.columns, levels, strict=True)):
        value = values[:, index]
        names = list(of_column)
        if names:
            columns[name] = pa.array([None if np.isnan(it) else names[int(it)] for it in value], pa.string())
        else:
            columns[name] = pa.array(value, from_pandas=True)
    here = ~np.isnan(values).all(axis=1)
    pq.write_table(pa.table(columns).filter(pa.array(here)), folder / "modalities" / f"{static.name}.parquet")
