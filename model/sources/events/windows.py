"""Which events a sample sees of a signal, and what numbers are made of them.

Everything is a sum or a choice over one contiguous run of sorted events, in float64 and in one order: so the same
events give the same bits, whatever lies after them, in which shard they stood and in which order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.sources.events.description import HOUR
from model.sources.events.shards import Int64s
from model.sources.series import STATISTICS, statistics

Floats = NDArray[np.float64]

#: Events that are looked at in one go.
_BLOCK = 2_000_000


@dataclass(frozen=True, eq=False)
class Tracks:
    """Events of a piece, sorted by subject, signal, time and value.

    Attributes:
        place: int64 (e,), rank of the subject times the number of signals, plus the signal.
        at: int64 (e,), microseconds since 1970.
        value: float64 (e,), NaN where there is none.
        n_signals: how many signals there are.
    """

    place: Int64s
    at: Int64s
    value: Floats
    n_signals: int

    def measured(self) -> Tracks:
        """Those with a value."""
        rows = ~np.isnan(self.value)
        return Tracks(self.place[rows], self.at[rows], self.value[rows], self.n_signals)

    def between(self, ranks: Int64s, after: Int64s, until: Int64s) -> tuple[Int64s, Int64s]:
        """Begin and end, each int64 (k, n_signals), of the events of each signal with after < time <= until.

        Args:
            ranks: (k,) rank of each sample's subject in the piece.
            after, until: (k,) microseconds since 1970.
        """
        times = np.unique(self.at)
        # A place and the rank of a time as one number: one search finds the end of a run.
        span = len(times) + 1
        keys = self.place * span + np.searchsorted(times, self.at)
        places = (ranks * self.n_signals)[:, None] + np.arange(self.n_signals)
        ends = [np.searchsorted(times, moment, "right")[:, None] for moment in (after, until)]
        begin, end = (np.searchsorted(keys, places * span + rank) for rank in ends)
        return begin, np.maximum(begin, end)


def tracks(ranks: Int64s, signals: Int64s, at: Int64s, value: Floats, n_signals: int) -> Tracks:
    """Events in any order as tracks; ranks and signals say where each belongs."""
    place = ranks * n_signals + signals
    order = np.lexsort([value, at, place])
    return Tracks(place[order], at[order], value[order], n_signals)


def runs(begin: Int64s, end: Int64s) -> Iterator[tuple[Int64s, Int64s, Int64s]]:
    """Blocks of the runs that are not empty: their positions (r,), the events of all of them, where each run begins."""
    position = np.flatnonzero(end > begin)
    begin, length = begin.reshape(-1)[position], (end - begin).reshape(-1)[position]
    block = np.cumsum(length) // _BLOCK
    for number in np.unique(block).tolist():
        rows = block == number
        sizes = length[rows]
        start = np.cumsum(sizes) - sizes
        events = np.arange(sizes.sum()) + np.repeat(begin[rows] - start, sizes)
        yield position[rows], events, start


def describe(track: Tracks, begin: Int64s, end: Int64s, until: Int64s, names: tuple[str, ...]) -> Floats:
    """Statistics of the values of each run, float64 (k, n_signals, len(names)); NaN where there is no value.

    count is left to the caller. slope: of the least-squares line, in units an hour; NaN of one time. haim_*: the eleven
    of `model.sources.series.statistics`.

    Args:
        track: with values only.
        begin, end: (k, n_signals), from `Tracks.between`.
        until: (k,) the last moment of each sample.
    """
    table = np.full((begin.size, len(names)), np.nan)
    haim = [index for index, name in enumerate(names) if name.startswith("haim_")]
    at_haim = [STATISTICS.index(names[index].removeprefix("haim_")) for index in haim]
    for position, events, start in runs(begin, end):
        value = track.value[events]
        size = np.diff(np.append(start, len(value)))
        mean = np.add.reduceat(value, start) / size
        for index, name in enumerate(names):
            if name == "last":
                table[position, index] = value[start + size - 1]
            elif name == "mean":
                table[position, index] = mean
            elif name == "min":
                table[position, index] = np.minimum.reduceat(value, start)
            elif name == "max":
                table[position, index] = np.maximum.reduceat(value, start)
            elif name == "slope":
                hours = (track.at[events] - np.repeat(until[position // begin.shape[1]], size)) / HOUR
                hours -= np.repeat(np.add.reduceat(hours, start) / size, size)
                spread = np.add.reduceat(hours * hours, start)
                rise = np.add.reduceat(hours * (value - np.repeat(mean, size)), start)
                table[position, index] = np.divide(rise, spread, out=np.full(len(size), np.nan), where=spread > 1e-12)
        if haim:
            for row, series in zip(position.tolist(), np.split(value, start[1:]), strict=True):
                table[row, haim] = statistics(series)[at_haim]
    return table.reshape(*begin.shape, len(names))


def hourly(track: Tracks, ranks: Int64s, until: Int64s, hours: int, how: NDArray[np.str_]) -> Floats:
    """One value an hour and signal, float64 (k, hours, n_signals), NaN where there is none; the last hour ends `until`.

    Args:
        track: with values only.
        ranks, until: (k,) of each sample.
        how: (n_signals,) of `description.HOWS`.
    """
    table = np.full((len(ranks), hours, track.n_signals), np.nan)
    begin, end = track.between(ranks, until - hours * HOUR, until)
    for position, events, start in runs(begin, end):
        size = np.diff(np.append(start, len(events)))
        sample = np.repeat(position // track.n_signals, size)
        signal = np.repeat(position % track.n_signals, size)
        step = hours - 1 - (until[sample] - track.at[events]) // HOUR
        value = track.value[events]
        # Sorted by sample, signal and time, so an hour is a run, too.
        new = np.append(True, (np.diff(step) != 0) | (np.diff(np.repeat(position, size)) != 0))
        first = np.flatnonzero(new)
        count = np.diff(np.append(first, len(value)))
        total = np.add.reduceat(value, first)
        chosen = how[signal[first]]
        cells = np.where(chosen == "last", value[first + count - 1], np.where(chosen == "sum", total, total / count))
        table[sample[first], step[first], signal[first]] = cells
    return table
