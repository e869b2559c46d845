"""Emulated products of less precision round what a GPU would."""

from __future__ import annotations

import torch

from benchmarks.precision import BITS, Rounded, as_on_a_gpu
from model.networks import contrastive


def test_seven_bits_are_bfloat16() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 8, 5), torch.randn(3, 5, 7)
    with Rounded(BITS["bfloat16"]) as rounding:
        found = torch.bmm(a, b)
    assert rounding.products == 1
    # Halves go away from zero here and to the even neighbour there; of random numbers none is a half.
    torch.testing.assert_close(found, torch.bmm(a.bfloat16().float(), b.bfloat16().float()), rtol=0, atol=0)


def test_gradients_are_made_of_rounded_factors_too_and_double_precision_is_left_alone() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 6, requires_grad=True), torch.randn(6, 5)
    with Rounded(BITS["tf32"]) as rounding:
        (a @ b).sum().backward()
        assert rounding.products == 2
        exact = a.detach().double() @ b.double()
        assert rounding.products == 2
    rounded = b.view(torch.int32) & 0x1FFF
    assert rounded.any(), "the factor had bits to lose"
    assert a.grad is not None
    assert not torch.equal(a.grad, b.sum(1).expand_as(a))
    torch.testing.assert_close(a.grad, b.sum(1).expand_as(a), rtol=0, atol=6 * 2**-10)
    torch.testing.assert_close(exact, (a @ b).detach().double(), rtol=1e-5, atol=1e-5)


def test_the_contrastive_term_is_put_back() -> None:
    before = contrastive.by_rows
    with as_on_a_gpu():
        assert contrastive.by_rows is contrastive.by_masks
    assert contrastive.by_rows is before
