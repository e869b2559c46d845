"""FlexCare once more, word for word: one sample, one task, one token at a time. Slow, plain, and the oracle.

Written from section 4 of the paper, with the choices of docs/networks.md, and sharing no code with `flexcare.py`
but the names of the parameters.
"""

from __future__ import annotations

import math
from itertools import chain, combinations

import torch
from torch import Tensor


def all_combinations(modalities: int) -> list[tuple[int, ...]]:
    """Every non-empty set of modalities, by size."""
    sizes = (combinations(range(modalities), size) for size in range(1, modalities + 1))
    return list(chain.from_iterable(sizes))


def patches(image: Tensor, side: int) -> list[Tensor]:
    """The patches of a (c, H, W) image, row by row, padded with zeros at the right and at the bottom."""
    channels, height, width = image.shape
    found = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            patch = torch.zeros(channels, side, side, dtype=image.dtype)
            part = image[:, top : top + side, left : left + side]
            patch[:, : part.shape[1], : part.shape[2]] = part
            found.append(patch.reshape(-1))
    return found


def may_attend(asks: tuple[str, tuple[int, ...]], asked: tuple[str, tuple[int, ...]]) -> bool:
    """Eq. 4 with its first sentence on the task token: (what a token is, what it belongs to).

    phi of a modality's token, and of its class token, is the modality; of a combination's token the combination.
    """
    if asks == asked:
        return True  # phi(j) = phi(i), for a combination; for tokens of one modality, too
    if asked[0] == "task":
        return False
    if asks[0] == "task":
        return True
    return asked[0] == "modality" and set(asked[1]) <= set(asks[1])


class Reference:
    """The network of one member.

    Args:
        values: parameters without the member axis; `task` is the slot.
        settings: FlexCareSettings; only `mask: paper`, no dropout, no noise.
    """

    def __init__(self, values: dict[str, Tensor], task: int, settings: object) -> None:
        self.p = values
        self.task = task
        self.s = settings

    def linear(self, name: str, x: Tensor) -> Tensor:
        made = self.p[f"{name}.weight"] @ x
        return made + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else made

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def tokens(self, sample: list[Tensor | None]) -> list[tuple[tuple[str, tuple[int, ...]], bool, Tensor]]:
        """(what it is, whether the sample has it, h) of every token; an absent modality is None."""
        combos = all_combinations(len(sample))
        has = [x is not None for x in sample]
        found = [(("task", ()), True, self.p["task.token"][self.task])]
        for number, combo in enumerate(combos):
            kind = ("modality", combo) if len(combo) == 1 else ("combination", combo)
            found.append((kind, all(has[m] for m in combo), self.p["combination.token"][number]))
        for m, x in enumerate(sample):
            position = self.p[f"position.{m}"]
            if x is None:
                pieces: list[Tensor | None] = [None] * len(position)
            elif x.dim() == 3:
                pieces = list(patches(x, self.s.patch))
            elif x.dim() == 2:
                pieces = [None if bool(step.isnan().all()) else step.nan_to_num(0.0) for step in x]
            else:
                pieces = [x]
            for place, piece in enumerate(pieces):
                width = self.p[f"embed.{m}.weight"].shape[1]
                made = self.linear(f"embed.{m}", torch.zeros(width).double() if piece is None else piece)
                found.append((("modality", (m,)), piece is not None, made + position[place]))
        return found

    def layer(self, number: int, kinds: list, there: list[bool], h: list[Tensor]) -> list[Tensor]:
        """Eq. 2 and 3, token by token and head by head."""
        name, heads = f"encoder.{number}", self.s.heads
        d = self.s.width // heads
        query = [self.linear(f"{name}.query", x) for x in h]
        both = [self.linear(f"{name}.key_value", x) for x in h]
        result = []
        for i, x in enumerate(h):
            parts = []
            for head in range(heads):
                at = slice(head * d, head * d + d)
                seen = [j for j in range(len(h)) if i == j or (there[j] and may_attend(kinds[i], kinds[j]))]
                scores = torch.stack([query[i][at] @ both[j][: self.s.width][at] / math.sqrt(d) for j in seen])
                weights = scores.softmax(0)
                parts.append(sum(w * both[j][self.s.width :][at] for w, j in zip(weights, seen, strict=True)))
            attended = self.linear(f"{name}.out", torch.cat(parts))
            mixed = self.norm(f"{name}.norm.0", x + attended)
            fed = self.linear(f"{name}.feed.out", self.linear(f"{name}.feed.in", mixed).relu())
            result.append(self.norm(f"{name}.norm.1", mixed + fed))
        return result

    def predict(self, sample: list[Tensor | None]) -> dict[str, Tensor]:
        """Everything section 4 defines for a sample."""
        every = self.tokens(sample)
        kinds, there, h = [k for k, _, _ in every], [t for _, t, _ in every], [x for _, _, x in every]
        for number in range(self.s.layers):
            h = self.layer(number, kinds, there, h)
        combos = all_combinations(len(sample))
        task, z = h[0], h[1 : 1 + len(combos)]
        has = there[1 : 1 + len(combos)]

        # Eq. 5 and 6, entry by entry; Eq. 5 prints the mean without its 1 / d.
        means = [sum(float(v) for v in token) / len(token) for token in z]
        covariance = 0.0
        for i, a in enumerate(z):
            for j, b in enumerate(z):
                if i != j:
                    cov = sum((a[t] - means[i]) * (b[t] - means[j]) for t in range(len(a))) / (len(a) - 1)
                    covariance = covariance + cov**2 / (len(z) - 1) ** 2

        refined, routing = [], []
        for token in z:
            logits = [
                self.p["router.combination.weight"][e] @ token + self.p["router.task.weight"][e] @ task
                for e in range(self.s.experts)
            ]
            best = sorted(range(self.s.experts), key=lambda e: -float(logits[e]))[: self.s.top]
            total = sum(torch.exp(logits[e]) for e in best)
            gates = [
                torch.exp(logits[e]) / total if e in best else torch.zeros(()).double() for e in range(len(logits))
            ]
            made = torch.zeros_like(token)
            for e, gate in enumerate(gates):
                hidden = (self.p["expert.in.weight"][e] @ token + self.p["expert.in.bias"][e]).relu()
                made = made + gate * (self.p["expert.out.weight"][e] @ hidden + self.p["expert.out.bias"][e])
            refined.append(made)
            routing.append(torch.stack(gates))
        votes = [
            torch.exp(
                self.linear("fusion.out", torch.tanh(self.linear("fusion.in", torch.cat([task, s]))))[0]
                / self.s.fusion_temperature
            )
            if ok
            else torch.zeros(()).double()
            for s, ok in zip(refined, has, strict=True)
        ]
        alpha = [vote / sum(votes) for vote in votes]
        pooled = self.norm("fusion.norm", sum(a * s for a, s in zip(alpha, refined, strict=True)))
        patient = torch.cat([task, pooled])
        logits = self.p["head.weight"][self.task] @ patient + self.p["head.bias"][self.task]
        return {
            "logits": logits,
            "patient": patient,
            "fusion": torch.stack(alpha),
            "routing": torch.stack(routing),
            "covariance": torch.as_tensor(covariance),
        }
