"""Products of pairs: the same numbers and gradients as the plain way of writing them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrace.nn.dlrm import _pairs, upper_products


def plain(vectors_BVD: Tensor) -> Tensor:
    """Return the products by indexing the whole matrix."""
    count = vectors_BVD.shape[1]
    first, second = torch.triu_indices(count, count, offset=1)
    return (vectors_BVD @ vectors_BVD.transpose(1, 2))[:, first, second]


@pytest.mark.parametrize("shape", [(5, 2, 3), (1, 7, 1), (4, 27, 16), (0, 3, 2), (3, 1, 2)])
def test_products_are_those_of_the_indexed_matrix_to_the_bit(shape: tuple[int, int, int]) -> None:
    vectors = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(upper_products(vectors), plain(vectors))


@pytest.mark.parametrize("shape", [(5, 2, 3), (1, 7, 1), (4, 27, 16), (0, 3, 2), (3, 1, 2)])
def test_gradients_are_those_of_the_indexed_matrix_but_for_rounding(shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(1)
    one = torch.randn(shape, generator=draw).requires_grad_()
    other = one.detach().clone().requires_grad_()
    flow = torch.randn(shape[0], shape[1] * (shape[1] - 1) // 2, generator=draw)
    upper_products(one).backward(flow)
    plain(other).backward(flow)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)


def test_first_and_second_derivatives_are_right() -> None:
    vectors = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(upper_products, (vectors,))
    assert torch.autograd.gradgradcheck(upper_products, (vectors,))


def test_it_can_be_mapped_over_models() -> None:
    vectors = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(3))
    mapped = torch.func.vmap(upper_products)(vectors)
    torch.testing.assert_close(mapped, torch.stack([plain(part) for part in vectors]))


def test_what_inference_kept_serves_training() -> None:
    _pairs.cache_clear()
    with torch.inference_mode():
        upper_products(torch.ones(1, 3, 2))
    vectors = torch.ones(1, 3, 2, requires_grad=True)
    upper_products(vectors).sum().backward()
    assert vectors.grad is not None
