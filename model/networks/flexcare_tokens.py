"""The tokens of a sample in FlexCare: how many there are, which a sample has, and which attends to which (Eq. 4)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from model.data.folds import Rows
from model.networks.settings import FlexCareSettings


def combinations_of(modalities: int, which: str) -> tuple[tuple[int, ...], ...]:
    """The modality combinations that have a token, smallest first; the single modalities are always among them.

    Args:
        modalities: how many there are.
        which: "all" non-empty sets of modalities (the paper's C), "pairs" (single ones, pairs, and all together),
            "single", or "auto": all of them up to four modalities, pairs from five on.
    """
    if which == "auto":
        which = "all" if modalities <= 4 else "pairs"
    sizes = {"all": range(1, modalities + 1), "pairs": (1, 2, modalities), "single": (1,)}[which]
    return tuple(
        c for size in sorted({s for s in sizes if s <= modalities}) for c in combinations(range(modalities), size)
    )


def counts_of(inputs: Sequence[Sequence[int]], patch: int) -> tuple[int, ...]:
    """Tokens of each modality, from the shape of one row's input: a vector's one, a step's or a patch's each."""

    def tokens(shape: Sequence[int]) -> int:
        if len(shape) == 3:
            return math.ceil(shape[1] / patch) * math.ceil(shape[2] / patch)
        return 1 if len(shape) == 1 else shape[0]

    return tuple(map(tokens, inputs))


@functools.lru_cache(maxsize=32)
def attends(counts: tuple[int, ...], which: str, device: torch.device | None = None) -> Tensor:
    """Eq. 4 without the task token: bool (N, N), true where the row's token may attend to the column's.

    The tokens are the combinations', then each modality's. A single modality's combination token is that modality's
    class token and counts as one of its tokens.
    """
    combos = combinations_of(len(counts), which)
    owner = [set(c) for c in combos] + [{m} for m, count in enumerate(counts) for _ in range(count)]
    of_a_modality = [len(c) == 1 for c in combos] + [True] * sum(counts)
    places = range(len(owner))
    rows = [[(of_a_modality[j] and owner[j] <= owner[i]) or i == j for j in places] for i in places]
    return torch.tensor(rows, device=device)


def existing(
    rows: Rows, counts: tuple[int, ...], combos: Sequence[Sequence[int]], settings: FlexCareSettings
) -> tuple[Tensor, Tensor]:
    """Which combinations (B, C) and which tokens (B, N) a sample has.

    A combination exists where all its modalities do. A sample without any modality is given all of them, so that it
    has a prediction, made of nothing but zeros.
    """
    device, size = rows.inputs[0].device, len(rows)
    present = rows.present
    if present is None:
        present = torch.ones(size, len(counts), dtype=torch.bool, device=device)
    present = present | ~present.any(1, keepdim=True)
    # By columns: a list as an index would be sent to the device in every step.
    there = torch.stack([torch.stack([present[:, m] for m in c]).all(0) for c in combos], dim=1)
    parts = [there]
    for number, count in enumerate(counts):
        here = present[:, number, None].expand(-1, count)
        steps = rows.steps[number] if rows.steps else None
        parts.append(here if steps is None else here & steps)
    return there, torch.cat(parts, dim=1)


def attention_mask(
    counts: tuple[int, ...], k: int, exists: Tensor, settings: FlexCareSettings
) -> tuple[Tensor, Tensor | None]:
    """Eq. 4 for a whole sequence of k task tokens and N others.

    Returns:
        bool (B, k + N, k + N), true where the row's token attends to the column's: every token to itself, a task token
        to all others that exist, nobody to a task token. And what is added to the scores: nothing, or, as the published
        code does, 1 where Eq. 4 has minus infinity, in which case the first mask blocks only what does not exist.
    """
    size, n = exists.shape
    own = torch.eye(k + n, dtype=torch.bool, device=exists.device)
    paper = own.clone()
    paper[k:, k:] |= attends(counts, settings.combinations, exists.device)
    paper[:k, k:] = True
    columns = torch.cat([exists.new_ones(size, k), exists], dim=1).unsqueeze(1)
    if settings.mask == "paper":
        return (paper & columns) | own, None
    return columns.expand(-1, k + n, -1) | own, (~paper).to(torch.float32)
