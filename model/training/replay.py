"""A training step of a small pack as a CUDA graph: recorded once for each length of minibatch, then replayed.

A step is some 500 kernels. Of a small pack a GPU is done with them sooner than the host has started them; a graph
starts them all at once. It is trusted only after it did what the step does: on the first minibatch of each length both
are made from the same state. Where they part, or nothing can be recorded, this pack and all later ones of the process
are trained step by step; where memory does not suffice for both, this pack alone.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from model.data.folds import Rows

#: Members above which a GPU works longer on a step than the host takes to start it; it also bounds the graphs' memory.
MOST_MEMBERS = 256
#: A number is off where a replay parts from a step by more than this share of its way; other sums round otherwise.
_OFF = 0.1
#: Share of a tensor's numbers that may be off: less than a member of the largest pack has.
_FEW = 0.001

#: How the warning begins when steps are not replayed any more.
GIVEN_UP = "Training steps are not replayed as CUDA graphs"

_given_up: list[str] = []  # why, once steps have been given up

#: What replays an action that was recorded, and where it leaves its result.
Recorded: TypeAlias = tuple[Callable[[], object], Tensor]
Record: TypeAlias = Callable[[Callable[[], Tensor]], Recorded]


@contextlib.contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """A stream beside the default one, on which nothing can be recorded, for all steps of a pack, recorded or not.

    On a CPU there are no streams, and it does nothing.
    """
    if device.type != "cuda":
        yield
        return
    number = torch.cuda.current_device() if device.index is None else device.index
    default, stream = torch.cuda.current_stream(device), _stream(number)
    stream.wait_stream(default)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        # Also after an error: what is freed now may be in use there still.
        default.wait_stream(stream)


@functools.cache
def _stream(device: int) -> torch.cuda.Stream:
    """The same for all packs: memory and workspaces that it used can be used again on it alone."""
    return torch.cuda.Stream(device)


def given_up() -> bool:
    """Whether a pack of this process could not be replayed."""
    return bool(_given_up)


def recorded(action: Callable[[], Tensor]) -> Recorded:
    """Record an action on the stream at hand as a CUDA graph; nothing is computed.

    Raises:
        RuntimeError: it does what cannot be recorded, such as waiting for a result, or its memory does not suffice.
    """
    graph, pool, stream = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            result = action()
    except BaseException:
        # A recording that the driver ended leaves the allocator in the belief that it still goes on, and an allocator
        # that believes so gives nothing back when memory is short.
        with contextlib.suppress(Exception):
            torch._C._cuda_endAllocateToPool(stream.device_index, pool)
        raise
    return graph.replay, result


class Replayed:
    """A step that is replayed wherever that does the same.

    Args:
        step: trains on a minibatch and returns a number for each member; it changes nothing but `state`, whose tensors
            are there before the first call.
        state: all that a step changes: parameters, (K, ...) or flat, and the optimiser's numbers.
        record: makes what replays an action.
    """

    def __init__(self, step: Callable[[Rows], Tensor], state: Sequence[Tensor], record: Record = recorded) -> None:
        self._step, self._state, self._record = step, list(state), record
        self._by_length: dict[int, _Replay | None] = {}

    def __call__(self, rows: Rows) -> Tensor:
        """Train on a minibatch; the result holds until the next call."""
        if len(rows) not in self._by_length:
            return self._first(rows)
        recording = self._by_length[len(rows)]
        return self._step(rows) if recording is None or given_up() else recording(rows)

    def _first(self, rows: Rows) -> Tensor:
        """The first minibatch of a length: step by step, and replayed from the same state."""
        self._by_length[len(rows)] = None
        if given_up():
            return self._step(rows)
        try:
            before = [value.clone() for value in self._state]
        except torch.OutOfMemoryError:
            return self._step(rows)
        losses = self._step(rows).clone()
        try:
            stepped = [value.clone() for value in self._state]
            recording = _Replay(self._step, rows, self._record)
        except torch.OutOfMemoryError:
            return losses
        except RuntimeError as error:
            _give_up(f"it could not be recorded ({' '.join(str(error).split())[:200]})")
            return losses
        self._put(before)
        try:
            again = recording(rows)
            if torch.allclose(losses, again, rtol=1e-2, equal_nan=True) and self._moved_alike(before, stepped):
                self._by_length[len(rows)] = recording
                return again
            why = "its graph did something else"
        except torch.OutOfMemoryError:
            why = ""
        except RuntimeError as error:
            why = f"its graph failed ({' '.join(str(error).split())[:200]})"
        self._put(stepped)
        if why:
            _give_up(why)
        return losses

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for value, given in zip(self._state, values, strict=True):
            value.copy_(given)

    @torch.no_grad()
    def _moved_alike(self, before: Sequence[Tensor], stepped: Sequence[Tensor]) -> bool:
        """Whether the state is where the step led, as far as sums that round otherwise allow."""
        for value, start, end in zip(self._state, before, stepped, strict=True):
            # Of what is not finite any more, a member that diverged, it is enough that it is so in both.
            there = end.isfinite()
            off = (value - end).abs() > _OFF * (end - start).abs()
            off = torch.where(there, off, value.isfinite())
            if float(off.double().mean()) > (_FEW if value.dim() else 0):  # no step too many or too few
                return False
        return True


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
            steps=tuple(None if measured is None else torch.zeros_like(measured) for measured in rows.steps),
        )
        self._replay, self._said = record(lambda: step(self._rows))

    def __call__(self, rows: Rows) -> Tensor:
        for own, given in zip(_tensors(self._rows), _tensors(rows), strict=True):
            own.copy_(given)
        self._replay()
        return self._said


def _tensors(rows: Rows) -> list[Tensor]:
    tensors = (*rows.inputs, rows.present, rows.targets, rows.labelled, *rows.steps)
    return [tensor for tensor in tensors if tensor is not None]


def _give_up(why: str) -> None:
    _given_up.append(why)
    warnings.warn(f"{GIVEN_UP}: {why}. Packs are trained step by step.", stacklevel=3)
