"""The features of HAIM's embedding table, written piece by piece, and which sample lacks which source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.cohort import Bools
from model.sources.haim_tables import Source, Tell, columns_of, pieces

#: What HAIM writes as whole numbers and means as categories: gender, ethnicity, marital status, language, insurance.
CATEGORIES = ("de_1", "de_2", "de_3", "de_4", "de_5")

#: An embedding is the empty string's if no value is further from it: the same text embedded elsewhere differs by less.
_SAME = 1e-4
#: A vector that stands for "no note" is shared by this share of the patients at least, and by so many.
_SHARED, _FEWEST = 0.01, 5


def write_features(
    embeddings: Path,
    sources: Sequence[Source],
    chosen: Bools,
    frame: pd.DataFrame,
    grouped: bool,
    root: Path,
    tell: Tell,
) -> dict[str, int]:
    """Write every modality's file; returns how many samples lack each source."""
    parts = modalities_of(sources, grouped)
    n = int(chosen.sum())
    wanted = {column: pa.float32() for source in sources for column in columns_of(source)}
    notes = [source.prefix for source in sources if source.modality == "language"]
    absent = {source.prefix: np.zeros(n, bool) for source in sources}
    prints = {prefix: np.zeros(n, np.int64) for prefix in notes}
    tabular = np.full((n, 6), np.nan, np.float32)
    streams = {}
    try:
        for name, members in parts.items():
            if name not in ("de", "tabular"):
                streams[name] = (root / "modalities" / f"{name}.npy").open("wb")
                shape = (n, sum(source.width for source in members))
                head = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(streams[name], head)
        start, at = 0, 0
        for batch in pieces(embeddings, wanted):
            rows = np.flatnonzero(chosen[start : start + batch.num_rows])
            start += batch.num_rows
            here = slice(at, at + len(rows))
            at += len(rows)
            for name, members in parts.items():
                block = np.concatenate([_matrix(batch, source, rows) for source in members], axis=1)
                left = 0
                for source in members:
                    part = block[:, left : left + source.width]
                    left += source.width
                    part[~np.isfinite(part)] = np.nan
                    gone = np.isnan(part).all(axis=1)
                    if source.modality == "vision":
                        gone |= ~part.any(axis=1)  # HAIM writes zeros where there was no image
                    absent[source.prefix][here] = gone
                    if source.prefix in prints:
                        rounded = np.round(part, 4) + np.float32(0)  # no negative zero
                        prints[source.prefix][here] = [hash(row.tobytes()) for row in rounded]
                if name in streams:
                    streams[name].write(np.ascontiguousarray(block, "<f4").tobytes())
                else:
                    tabular[here] = block
            tell("writing features", start, len(chosen))
    finally:
        for stream in streams.values():
            stream.close()
    if "de" in absent:
        _write_tabular(root, frame, tabular, next(iter(parts)))
    _mark_absent(root, parts, absent, prints, frame["subject_id"].to_numpy())
    return {prefix: int(flags.sum()) for prefix, flags in absent.items()}


def modalities_of(sources: Sequence[Source], grouped: bool) -> dict[str, list[Source]]:
    """The cohort's modalities, by name, and the sources each is made of."""
    parts: dict[str, list[Source]] = {}
    for source in sources:
        parts.setdefault(source.modality if grouped else source.prefix, []).append(source)
    return parts


def _matrix(batch: pa.RecordBatch, source: Source, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    values = np.empty((source.width, batch.num_rows), np.float32)
    for index, column in enumerate(columns_of(source)):
        values[index] = batch.column(column).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.T[rows])


def _write_tabular(root: Path, frame: pd.DataFrame, values: NDArray[np.float32], name: str) -> None:
    """Demographics as Parquet: the categories are whole numbers, and HAIM's -1 means not recorded."""
    columns: dict[str, pa.Array] = {"sample_id": pa.array(frame["img_id"])}
    for index, column in enumerate(f"de_{k}" for k in range(values.shape[1])):
        value = values[:, index].astype(np.float64)
        if column in CATEGORIES:
            value = np.where(value < 0, np.nan, value)
            columns[column] = pa.array([None if np.isnan(v) else str(int(v)) for v in value], pa.string())
        else:
            columns[column] = pa.array(value, from_pandas=True)
    pq.write_table(pa.table(columns), root / "modalities" / f"{name}.parquet")


def _mark_absent(
    root: Path,
    parts: Mapping[str, Sequence[Source]],
    absent: dict[str, Bools],
    prints: Mapping[str, NDArray[np.int64]],
    patients: NDArray[Any],
) -> None:
    """Find the samples without a note, then write NaN where a sample lacks a whole modality."""
    arrays = {
        name: np.load(path, mmap_mode="r+") for name in parts if (path := root / "modalities" / f"{name}.npy").exists()
    }
    views: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        left = 0
        for source in parts[name]:
            views[source.prefix] = array[:, left : left + source.width]
            left += source.width
    filler = _filler(prints, views, patients)
    if filler is not None:
        for prefix in prints:
            for start in range(0, len(patients), 4096):
                part = views[prefix][start : start + 4096]
                absent[prefix][start : start + 4096] |= (np.abs(part - filler) <= _SAME).all(axis=1)
    for name, array in arrays.items():
        gone = np.logical_and.reduce([absent[source.prefix] for source in parts[name]])
        array[gone] = np.nan
        array.flush()


def _filler(
    prints: Mapping[str, NDArray[np.int64]], views: Mapping[str, NDArray[np.float32]], patients: NDArray[Any]
) -> NDArray[np.float32] | None:
    """HAIM's embedding of the empty string, which stands for a missing note; None where no vector looks like it.

    It is one and the same vector in all three kinds of notes, and many patients share it. Two patients may have the
    same note word by word (a normal electrocardiogram), but hardly one that is an echocardiogram's too: so the vector
    that most patients share, summed over the kinds, is it, if it occurs in two kinds or is shared by 1 % of them.
    """
    counts = [pd.Series(patients).groupby(marks).nunique() for marks in prints.values()]
    if not counts:
        return None
    shared = pd.concat(counts, axis=1).fillna(0)
    row = int(shared.sum(axis=1).to_numpy().argmax())
    best, held = shared.index[row], shared.to_numpy()[row]
    kinds, most = int((held >= 2).sum()), int(held.max())
    if kinds < 2 and most < max(_FEWEST, _SHARED * len(np.unique(patients))):
        return None
    for prefix, marks in prints.items():
        at = np.flatnonzero(marks == best)
        if len(at) and np.isfinite(views[prefix][at[0]]).all():
            return np.array(views[prefix][at[0]])
    return None
