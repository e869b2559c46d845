"""Texts and paths of images that samples may see, written down to be embedded later.

`references/NAME.parquet` in the cohort folder: sample_id, position (0, 1, ... from the oldest to the latest), and text
or path. A sample without one has no row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.sources.events.description import HOUR, Reference
from model.sources.events.samples import SAMPLE, Samples
from model.sources.events.shards import STATIC, Events, Int64s
from model.sources.events.vocabulary import SHIFTED, meant
from tim_search.types import BadInput

#: The folder of references in a cohort folder.
FOLDER = "references"


def check_columns(references: list[Reference], events: Events) -> None:
    """Raise BadInput where the events lack a column that references name."""
    for reference in references:
        if reference.column != "text" and reference.column not in events.columns:
            raise BadInput(
                f"modalities.{reference.name}.column: the events have no column {reference.column}. They have: "
                f"{', '.join(events.columns)}. Name one of them."
            )


@contextmanager
def writers(references: list[Reference], folder: Path) -> Iterator[Mapping[str, pq.ParquetWriter]]:
    """A file for each modality of references, open for writing."""
    with ExitStack() as stack:
        opened = {}
        for reference in references:
            (folder / FOLDER).mkdir(exist_ok=True)
            kind = "text" if reference.column == "text" else "path"
            schema = pa.schema([(SAMPLE, pa.string()), ("position", pa.int32()), (kind, pa.string())])
            path = folder / FOLDER / f"{reference.name}.parquet"
            opened[reference.name] = stack.enter_context(pq.ParquetWriter(path, schema))
        yield opened


def write_rows(
    reference: Reference,
    events: Events,
    samples: Samples,
    rows: NDArray[np.int64],
    last: Int64s,
    admitted: Int64s,
    writer: pq.ParquetWriter,
) -> int:
    """Write the references of some samples; returns how many there are.

    Args:
        rows: (k,) of the samples, those of the piece that is shown.
        last, admitted: (k,) of them.
    """
    column = '"' + reference.column.replace('"', '""') + '"'
    known_from = SHIFTED.format(days="code IN (SELECT code FROM days)")
    listed = events.ask(
        f"SELECT subject, {known_from} AS moment, {column}::VARCHAR AS content FROM events "
        f"WHERE {meant(reference.codes)} AND content IS NOT NULL AND trim(content) <> '' ORDER BY subject, 2, content"
    )
    subject, moment = listed["subject"].to_numpy(), listed["moment"].to_numpy()
    after = {"all": np.full_like(last, STATIC - 1), "stay": admitted - 1}.get(
        str(reference.window), last - (reference.window if isinstance(reference.window, int) else 0) * HOUR
    )
    written = 0
    for start in range(0, len(rows), 4096):
        picked: list[NDArray[np.int64]] = []
        sizes = []
        for row in range(start, min(start + 4096, len(rows))):
            who = samples.subjects[rows[row]]
            low, high = np.searchsorted(subject, who, "left"), np.searchsorted(subject, who, "right")
            begin = low + np.searchsorted(moment[low:high], after[row], "right")
            end = low + np.searchsorted(moment[low:high], last[row], "right")
            picked.append(np.arange(max(begin, end - reference.most), end))
            sizes.append(len(picked[-1]))
        ids = np.repeat(samples.ids[rows[start : start + len(sizes)]], sizes)
        position = np.concatenate([np.arange(size) for size in sizes]).astype(np.int32)
        content = listed["content"].take(pa.array(np.concatenate(picked)))
        parts = [pa.array(ids, pa.string()), pa.array(position), content.cast(pa.string())]
        writer.write_table(pa.Table.from_arrays(parts, schema=writer.schema))
        written += len(ids)
    return written
