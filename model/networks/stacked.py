"""Layers of a whole pack as few large products: how FlexCare's stacked parameters are applied fast.

A pack of K members has each parameter K times, (K, ...). Written member by member, a step would be thousands of small
products; here each layer is one batched product, and what all members read alike is multiplied once. It costs
reshapes that the papers do not have, and with experts work that mostly counts nothing. That results are those of the
equations is what tests/model/networks/test_flexcare.py compares with tests/support/flexcare_reference.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from model.networks.contract import Parameters


def apply(values: Parameters, name: str, x: Tensor) -> Tensor:
    """Each member's own linear layer on the last axis of (K, ..., inputs); without a bias where there is none."""
    weight, bias = values[f"{name}.weight"], values.get(f"{name}.bias")
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    turned = weight.transpose(1, 2)
    product = torch.bmm(flat, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), flat, turned)
    return product.view(*x.shape[:-1], weight.shape[1])


def apply_to_shared(values: Parameters, name: str, x: Tensor) -> Tensor:
    """Each member's own linear layer on rows (B, n, inputs) that all members read: (K, B, n, outputs).

    The layers of all members lie side by side as one wide layer, so that the rows are multiplied once.
    """
    weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
    members, outputs, inputs = weight.shape
    flat = torch.addmm(bias.reshape(-1), x.reshape(-1, inputs), weight.reshape(-1, inputs).t())
    return flat.view(x.shape[0], x.shape[1], members, outputs).permute(2, 0, 1, 3)


def norm(values: Parameters, name: str, x: Tensor) -> Tensor:
    """Each member's own layer normalisation over the last axis of (K, B, tokens, d)."""
    weight, bias = values[f"{name}.weight"], values[f"{name}.bias"]
    return F.layer_norm(x, (x.shape[-1],)) * weight[:, None, None] + bias[:, None, None]


def experts_of(values: Parameters, combination: Tensor, routing: Tensor) -> Tensor:
    """sum_e R_e expert_e(z) of Eq. 8, (K, B, k, C, d), for combination tokens (K, B, C, d) and R (K, B, k, C, E).

    An expert reads the combination's token alone, so that its hidden layer is made once for all k tasks. Every expert
    works on every token, and most count nothing, for R is zero there: a pack's products stay even, which saves more
    than it costs while experts are small. The second layers of all experts are one product of width E times f.
    """
    members, size, c, d = combination.shape
    k, e = routing.shape[2], routing.shape[4]
    weight, bias = values["expert.in.weight"], values["expert.in.bias"]
    f = weight.shape[2]
    hidden = torch.baddbmm(
        bias.reshape(members, 1, -1),
        combination.reshape(members, -1, d),
        weight.reshape(members, -1, d).transpose(1, 2),
    ).relu()
    hidden = hidden.view(members, size, 1, c, e, f) * routing.unsqueeze(5)
    out = values["expert.out.weight"].transpose(1, 2).reshape(members, d, e * f)  # (K, E, d, f) to (K, d, E * f)
    refined = torch.bmm(hidden.reshape(members, -1, e * f), out.transpose(1, 2)).view(members, size, k, c, d)
    return refined + (routing.reshape(members, -1, e) @ values["expert.out.bias"]).view_as(refined)
