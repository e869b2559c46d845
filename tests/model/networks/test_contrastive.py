"""The contrastive term: its closed-form gradient, and the two ways in which it is worked out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from model.networks.contrastive import by_masks, by_rows, info_nce


def test_the_gradient_is_exact() -> None:
    torch.manual_seed(0)
    z = [torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0]]).bool()
    assert torch.autograd.gradcheck(lambda *z: info_nce(z, None, 0.1), z)
    assert torch.autograd.gradcheck(lambda *z: info_nce(z, present, 0.1), z)


def test_it_is_zero_where_nothing_can_be_contrasted() -> None:
    z = [torch.randn(2, 4, 3, dtype=torch.float64) for _ in range(2)]
    apart = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 1]]).bool()
    assert info_nce(z[:1], None, 0.1).tolist() == [0.0, 0.0]
    assert info_nce(z, apart, 0.1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("absent", [None, 0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 7, 40])
@pytest.mark.parametrize("scale", [1.0, 10.0, 20.0])
def test_a_gpu_is_given_the_same_by_masks(rows: int, absent: float | None, scale: float) -> None:
    torch.manual_seed(rows)
    units = [F.normalize(torch.randn(3, rows, 5, dtype=torch.float64), dim=2) for _ in range(4)]
    present = None if absent is None else torch.rand(rows, 4) >= absent
    loss, slopes = by_rows(units, present, scale)
    masked_loss, masked_slopes = by_masks(units, present, scale)
    torch.testing.assert_close(masked_loss, loss, rtol=0, atol=1e-12)
    for masked, slope in zip(masked_slopes, slopes, strict=True):
        torch.testing.assert_close(masked, slope, rtol=0, atol=1e-13)


def test_masks_take_members_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    units = [F.normalize(torch.randn(5, 6, 4, dtype=torch.float64), dim=2) for _ in range(3)]
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 0, 0]]).bool()
    whole = by_masks(units, present, 10.0)
    monkeypatch.setattr("model.networks.contrastive._GPU", 2 * 3 * 6 * 6 * 8)  # two members of three pairs
    parts = by_masks(units, present, 10.0)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)
