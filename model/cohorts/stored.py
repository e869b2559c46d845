"""Values of a modality that stay on disk, and are read row by row when they are needed.

A file that is mapped counts as memory of the process as far as it was touched, and is fetched page by page. So rows
are read with plain reads into arrays that are given back after use, the next rows by a thread while these are used.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from tim_search.gates.files import open_regular
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

#: The types of numbers that a file may hold.
TYPES = ("uint8", "float16", "float32", "float64")
#: Numbers that a pass over all rows has in memory at one time.
_PART = 1 << 22
#: A file of up to so many bytes goes to a worker with its cohort; a larger one has to be where the worker is.
_SENT = 1 << 28
#: Rows whose content tells whether a worker's file is the one that was meant.
_LOOKED_AT = 64

T = TypeVar("T")


class ArrayFile:
    """A NumPy file with one array whose first axis are rows.

    Attributes:
        path: of the file.
        shape, dtype: of the array.
        mapped: the array; what is touched of it counts as memory of the process.

    Raises:
        ValueError, OSError and what else NumPy raises for a file that it cannot map.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        self.path, self.shape, self.dtype = path, mapped.shape, mapped.dtype
        self._start = int(getattr(mapped, "offset", 0))
        # A plain array over the map: NumPy's own class for it would be copied around as a special case.
        self.mapped: NDArray[Any] = np.asarray(mapped)
        # An array that lies column by column has its rows all over the file.
        self._by_rows = isinstance(mapped, np.memmap) and mapped.flags.c_contiguous

    def rows(self, wanted: Ints) -> NDArray[Any]:
        """The rows, (len(wanted), ...) in the file's type; rows that are wanted twice are read once."""
        if not self._by_rows:
            return np.asarray(self.mapped[wanted])
        distinct, place = np.unique(wanted, return_inverse=True)
        values = np.empty((len(distinct), *self.shape[1:]), self.dtype)
        size = self.dtype.itemsize * math.prod(self.shape[1:])
        # Rows that follow one another are read at once.
        starts = np.flatnonzero(np.diff(distinct, prepend=-2) != 1).tolist()
        for first, last in itertools.pairwise([*starts, len(distinct)]):
            self._read(values[first:last], self._start + int(distinct[first]) * size)
        return values if np.array_equal(distinct, wanted) else values[place]

    def _read(self, into: NDArray[Any], start: int) -> None:
        room = memoryview(into.reshape(-1).view(np.uint8).data)
        while room:
            count = os.preadv(self._handle.fileno(), [room], start)
            if not count:
                raise BadInput(
                    f"{for_terminal(self.path)}: ended early while it was read. Leave it alone during a search."
                )
            room, start = room[count:], start + count

    @functools.cached_property
    def _handle(self) -> Any:
        return open_regular(self.path)

    @property
    def _mark(self) -> str:
        """A digest of its shape and of some of its rows, which stands for the content."""
        some = np.linspace(0, self.shape[0] - 1, min(_LOOKED_AT, self.shape[0])).astype(np.int64)
        about = f"{self.shape} {self.dtype}".encode()
        return hashlib.blake2b(about + self.rows(some).tobytes(), digest_size=16).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        if math.prod(self.shape) * self.dtype.itemsize <= _SENT:
            return _sent, (self.path, self.rows(np.arange(self.shape[0])))
        return _where_it_is, (self.path, self._mark)


def _sent(path: Path, array: NDArray[Any]) -> ArrayFile:
    """A file whose content came along."""
    file = ArrayFile.__new__(ArrayFile)
    file.path, file.shape, file.dtype, file.mapped, file._by_rows = path, array.shape, array.dtype, array, False
    return file


def _where_it_is(path: Path, mark: str) -> ArrayFile:
    """A file that is too large to send; raises BadInput where this machine has none of that content there."""
    problem = "it has another content here"
    try:
        file = ArrayFile(path)
        if file._mark == mark:
            return file
    except (OSError, ValueError) as error:
        problem = f"it cannot be read here ({error})"
    raise BadInput(
        f"{path}: expected the file that the search was started with; {problem}. It is too large to be sent "
        "to workers: keep the cohort in a folder that all machines have under the same path."
    )


@dataclass(frozen=True, eq=False)
class Stored:
    """Values (n, ...) of n samples, most of them on disk.

    `values[rows]` is an array in memory, NaN where a sample has no row; samples may share one.

    Attributes:
        file: where the values are.
        row: int64 (n,), the row of the file that a sample has; -1: none.
        columns: int64, which entries of the last axis count; None: all.
    """

    file: ArrayFile
    row: Ints
    columns: Ints | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        inner = self.file.shape[1:]
        return (len(self.row), *(inner if self.columns is None else (*inner[:-1], len(self.columns))))

    @property
    def ndim(self) -> int:
        return len(self.file.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: float64 of such a file, else float32, which holds the smaller types exactly."""
        return np.dtype(np.float64 if self.file.dtype == np.float64 else np.float32)

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: slice | Bools | Ints) -> Floats:
        """The values of some samples: a slice, or a bool or int array."""
        row = self.row[rows]
        there = row >= 0
        values = self.file.rows(row[there])
        if self.columns is not None:
            values = values[..., self.columns]
        if there.all():
            return values.astype(self.dtype, copy=False)
        every = np.full((len(row), *values.shape[1:]), np.nan, self.dtype)
        every[there] = values
        return every

    def take(self, rows: Bools | Ints) -> Stored:
        """The values of some samples, left on disk."""
        return replace(self, row=self.row[rows])

    def keep(self, columns: Ints) -> Stored:
        """Some entries of the last axis, left on disk; a sample for which none is measured has no row any more."""
        chosen = replace(self, columns=columns if self.columns is None else self.columns[columns])
        row = chosen.row.copy()
        for at, part in parts(chosen):
            row[at][np.isnan(part).reshape(len(part), -1).all(axis=1)] = -1
        return replace(chosen, row=row)

    def distinct(self) -> tuple[Stored, Ints]:
        """Each row that some sample has, once, in the samples' order; and which of them a sample has, -1: none."""
        used, first, place = np.unique(self.row, return_index=True, return_inverse=True)
        order = np.argsort(np.where(used < 0, -1, first), kind="stable")  # no row, if any, comes first
        number = np.empty(len(used), np.int64)
        number[order] = np.arange(len(used)) - int((used < 0).any())
        return replace(self, row=used[order][used[order] >= 0]), number[place]


Values: TypeAlias = Floats | Stored


def parts(values: Values, most: int = _PART) -> Iterator[tuple[slice, Floats]]:
    """Values (n, ...) in blocks of rows that are small enough to work on: where a block lies, and the block.

    Args:
        most: numbers of a block, unless one row has more.
    """
    size = max(1, most // max(1, math.prod(values.shape[1:])))
    places = [slice(start, min(start + size, len(values))) for start in range(0, len(values), size)]
    if not isinstance(values, Stored):
        yield from ((at, values[at]) for at in places)
    else:
        yield from zip(places, ahead(functools.partial(values.__getitem__, at) for at in places), strict=True)


def ahead(readings: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What each of these gives, in their order; the next is read by a thread while the last is used."""
    with ThreadPoolExecutor(1, "reading") as pool:
        waiting = iter(readings)
        coming = [pool.submit(reading) for reading in itertools.islice(waiting, 1)]
        while coming:
            values = coming.pop().result()
            coming = [pool.submit(reading) for reading in itertools.islice(waiting, 1)]
            yield values
            del values  # not held while the next is waited for


def add_values(content: Any, values: Values) -> None:
    """Add values (n, ...) to a digest; rows that samples share are added once, and then who has which."""
    if isinstance(values, Stored):
        rows, which = values.distinct()
        if len(rows) < int((which >= 0).sum()):
            _add(content, rows)
            content.update(np.ascontiguousarray(which, "<i8").tobytes())
            return
    _add(content, values)


def _add(content: Any, values: Values) -> None:
    """Hash values as float64 with one NaN and one zero, so that a float32 and a float64 copy agree."""
    content.update(f"{values.shape};".encode())
    for _, block in parts(values, 1 << 20):
        part = np.array(block, dtype="<f8")
        part += 0.0
        part[np.isnan(part)] = np.nan
        content.update(part.tobytes())
