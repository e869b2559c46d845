"""M3H for one subset, written as the paper's equations read: the oracle of the stacked program.

Nothing is shared with `m3h` but the starting parameters: loops over modalities, tasks and pairs, explicit
queries, keys and values, cross entropy for the contrastive term, autograd throughout.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.folds import Rows
from model.networks.settings import M3HSettings
from tim_search.types import Task


def starting_point(values: dict[str, Tensor], member: int) -> dict[str, Tensor]:
    """One member's own copy of a pack's starting parameters."""
    return {name: value[member].detach().clone().requires_grad_() for name, value in values.items()}


def forward(p: dict[str, Tensor], names: tuple[str, ...], tasks: dict[str, Task], rows: Rows, settings: M3HSettings):
    """Logits by task, latents and reconstructions by clustering task, attention (B, k, k), embeddings by modality."""
    z = []
    for m, x in enumerate(rows.inputs):
        hidden = F.relu(F.linear(x, p[f"encoder.{m}.in.weight"], p[f"encoder.{m}.in.bias"]))
        out = F.linear(hidden, p[f"encoder.{m}.out.weight"], p[f"encoder.{m}.out.bias"])
        if rows.present is not None:
            out = torch.where(rows.present[:, m : m + 1], out, torch.zeros_like(out))
        z.append(out)
    joint = torch.cat(z, dim=1)
    shared = F.linear(joint, p["shared.in.weight"], p["shared.in.bias"])
    shared = F.linear(F.relu(shared), p["shared.out.weight"], p["shared.out.bias"])
    supervised = [name for name in names if tasks[name].kind != "clustering"]
    tokens = []
    for slot, name in enumerate(names):
        if name in supervised:
            tokens.append(F.relu(F.linear(shared, p["task.weight"][slot], p["task.bias"][slot])))
        else:
            c = slot - len(supervised)
            weight, bias = p["autoencoder.encode.weight"][c], p["autoencoder.encode.bias"][c]
            tokens.append(F.relu(F.linear(joint, weight, bias)))
    x = torch.stack(tokens, dim=1)
    q = F.linear(p["attention.token"], p["attention.query.weight"], p["attention.query.bias"])
    k = F.linear(x, p["attention.key.weight"], p["attention.key.bias"])
    v = F.linear(x, p["attention.value.weight"], p["attention.value.bias"])
    m = torch.einsum("id,bjd->bij", q, k)
    if settings.attention_maximum == "magnitude":
        scale = m.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    else:
        scale = m.amax(dim=(1, 2), keepdim=True)  # as section 3.4 prints it; no sample of the tests has a zero
    w = torch.softmax(torch.eye(len(names), dtype=m.dtype) + settings.alpha * m / scale, dim=2)
    attended = w @ v
    logits, latents, rebuilt = {}, {}, {}
    for slot, name in enumerate(names):
        token = attended[:, slot]
        if name in supervised:
            outputs = tasks[name].n_outputs if tasks[name].kind == "multiclass" else 1
            logits[name] = F.linear(token, p["head.weight"][slot, :outputs], p["head.bias"][slot, :outputs])
        else:
            c = slot - len(supervised)
            latents[name] = token
            hidden = F.linear(token, p["autoencoder.decode.in.weight"][c], p["autoencoder.decode.in.bias"][c])
            rebuilt[name] = F.linear(
                F.relu(hidden), p["autoencoder.decode.out.weight"][c], p["autoencoder.decode.out.bias"][c]
            )
    return logits, latents, rebuilt, w, z


def contrastive(z: list[Tensor], rows: Rows, temperature: float) -> Tensor:
    """Symmetric InfoNCE, mean over the modality pairs with at least two common rows."""
    terms = []
    for a, b in combinations(range(len(z)), 2):
        both = torch.ones(len(rows), dtype=torch.bool)
        if rows.present is not None:
            both = rows.present[:, a] & rows.present[:, b]
        if int(both.sum()) < 2:
            continue
        s = F.normalize(z[a][both], dim=1) @ F.normalize(z[b][both], dim=1).T / temperature
        same = torch.arange(len(s))
        terms.append((F.cross_entropy(s, same) + F.cross_entropy(s.T, same)) / 2)
    return torch.stack(terms).mean() if terms else z[0].new_zeros(())


def losses(
    p: dict[str, Tensor],
    names: tuple[str, ...],
    tasks: dict[str, Task],
    order: tuple[str, ...],
    rows: Rows,
    settings: M3HSettings,
) -> list[Tensor]:
    """Contrastive loss, then each task's, in slot order; `order` names the rows of `Rows.targets`."""
    logits, _, rebuilt, _, z = forward(p, names, tasks, rows, settings)
    result = [settings.contrastive_weight * contrastive(z, rows, settings.temperature)]
    for name in names:
        task = tasks[name]
        if task.kind == "clustering":
            wanted = torch.cat(rows.inputs, dim=1)
            seen = torch.cat(
                [
                    torch.ones_like(x) if rows.present is None else rows.present[:, m : m + 1].expand_as(x)
                    for m, x in enumerate(rows.inputs)
                ],
                dim=1,
            ).bool()
            loss = F.mse_loss(rebuilt[name][seen], wanted[seen])
        else:
            row = order.index(name)
            known = rows.labelled[row] > 0
            if not known.any():
                result.append(z[0].new_zeros(()))
                continue
            y = rows.targets[row][known]
            said = logits[name][known]
            if task.kind == "binary":
                loss = F.binary_cross_entropy_with_logits(said[:, 0], y)
            elif task.kind == "multiclass":
                loss = F.nll_loss(F.log_softmax(said, dim=1), y.long())
            else:
                loss = F.l1_loss(said[:, 0], y)
        result.append(settings.task_weight * loss)
    return result


def train(
    p: dict[str, Tensor],
    names: tuple[str, ...],
    tasks: dict[str, Task],
    order: tuple[str, ...],
    epochs: list[list[Rows]],
    settings: M3HSettings,
) -> list[float]:
    """Train in place on the given minibatches; mean total loss of each epoch."""
    optimiser = torch.optim.Adam(p.values(), lr=settings.learning_rate)
    history = []
    for batches in epochs:
        total, count = 0.0, 0
        for rows in batches:
            turns = 1 if settings.update == "joint" else 1 + len(names)
            for turn in range(turns):
                parts = losses(p, names, tasks, order, rows, settings)
                loss = sum(parts) if turns == 1 else parts[turn]
                for value in p.values():
                    value.grad = torch.zeros_like(value)
                if loss.requires_grad:
                    loss.backward()
                optimiser.step()
                if turn == 0:
                    total += float(sum(parts).detach()) * len(rows)
                    count += len(rows)
        history.append(total / count)
    return history
