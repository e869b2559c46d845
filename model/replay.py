"""A training step of a small pack as a CUDA graph: recorded once for each length of minibatch, then replayed.

A step is some 500 kernels. Of a small pack a GPU is done with them sooner than the host has started them; a graph
starts them all at once. It is trusted only after it did what the step does: on the first minibatch of each length both
are made from the same state, and where they part, or nothing can be recorded, the pack goes on step by step.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from model.data import Rows

#: Members above which a GPU works longer on a step than the host takes to start it; it also bounds the graphs' memory.
MOST_MEMBERS = 256
#: Share of a step's length by which a replay may part from it: other sums round otherwise, a stale number is far off.
_TOLERANCE = 0.1

#: What replays an action that was recorded, and where it leaves its result.
Recorded: TypeAlias = tuple[Callable[[], object], Tensor]
Record: TypeAlias = Callable[[Callable[[], Tensor]], Recorded]


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """A stream of its own for all steps of a pack, those before a recording included: the default one records nothing.

    On a CPU there are no streams, and it does nothing.
    """
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def recorded(action: Callable[[], Tensor]) -> Recorded:
    """Record an action on the stream at hand as a CUDA graph; nothing is computed.

    Raises:
        RuntimeError: it does what cannot be recorded, such as waiting for a result, or its memory does not suffice.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
        result = action()
    return graph.replay, result


class Replayed:
    """A step that is replayed wherever that does the same.

    Args:
        step: trains on a minibatch and returns a number for each member; it changes nothing but `state`, and every
            tensor of the state is there before the first call.
        state: all tensors that a step changes.
        record: makes what replays an action.
    """

    def __init__(self, step: Callable[[Rows], Tensor], state: Sequence[Tensor], record: Record = recorded) -> None:
        self._step, self._state, self._record = step, list(state), record
        self._by_length: dict[int, _Replay | None] = {}

    def __call__(self, rows: Rows) -> Tensor:
        """Train on a minibatch; the result holds until the next call."""
        if len(rows) not in self._by_length:
            return self._first(rows)
        known = self._by_length[len(rows)]
        return self._step(rows) if known is None else known(rows)

    def _first(self, rows: Rows) -> Tensor:
        """The first minibatch of a length: step by step, and replayed from the same state."""
        self._by_length[len(rows)] = None
        before = [value.clone() for value in self._state]
        said = self._step(rows).clone()
        stepped = [value.clone() for value in self._state]
        try:
            known = _Replay(self._step, rows, self._record)
        except RuntimeError as error:
            _say(f"it could not be recorded ({str(error).splitlines()[0]})" if str(error) else "it was not recorded")
            return said
        self._put(before)
        again = known(rows)
        if _same(said, again) and self._moved_alike(before, stepped):
            self._by_length[len(rows)] = known
            return again
        self._put(stepped)
        _say("its graph did something else")
        return said

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for value, given in zip(self._state, values, strict=True):
            value.copy_(given)

    @torch.no_grad()
    def _moved_alike(self, before: Sequence[Tensor], stepped: Sequence[Tensor]) -> bool:
        """Whether the state is where the step led, as far as sums that round otherwise allow."""
        gap = way = 0.0
        for value, start, end in zip(self._state, before, stepped, strict=True):
            if value.dim() == 0 and not torch.equal(value, end):
                return False  # how many steps were made
            there = torch.isfinite(end)
            if not torch.equal(torch.isfinite(value), there):
                return False
            gap += float(torch.where(there, value - end, 0).double().square().sum())
            way += float(torch.where(there & torch.isfinite(start), end - start, 0).double().square().sum())
        return gap <= _TOLERANCE**2 * way


class _Replay:
    """A step that was recorded for minibatches of one length."""

    def __init__(self, step: Callable[[Rows], Tensor], rows: Rows, record: Record) -> None:
        # Zeros, not these rows: a graph that did not read what it is given would be found out.
        self._rows = replace(
            rows,
            inputs=tuple(map(torch.zeros_like, rows.inputs)),
            present=None if rows.present is None else torch.zeros_like(rows.present),
            targets=torch.zeros_like(rows.targets),
            labelled=torch.zeros_like(rows.labelled),
            steps=tuple(None if one is None else torch.zeros_like(one) for one in rows.steps),
        )
        self._replay, self._said = record(lambda: step(self._rows))

    def __call__(self, rows: Rows) -> Tensor:
        for own, given in zip(_tensors(self._rows), _tensors(rows), strict=True):
            own.copy_(given)
        self._replay()
        return self._said


def _tensors(rows: Rows) -> list[Tensor]:
    told = (*rows.inputs, rows.present, rows.targets, rows.labelled, *rows.steps)
    return [one for one in told if one is not None]


def _same(said: Tensor, again: Tensor) -> bool:
    return torch.allclose(said, again, rtol=1e-2, equal_nan=True)


def _say(what: str) -> None:
    warnings.warn(f"A training step is not replayed: {what}. The pack is trained step by step.", stacklevel=3)
