from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.errors import ConfigError
from headrace.optim import CowClip, RowNormClip
from headrace.protocols import RowTransform


def batch(rows: int = 200, dim: int = 10, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    weights = torch.randn(rows, dim, generator=random) * 0.1
    grads = torch.randn(rows, dim, generator=random) * torch.rand(rows, 1, generator=random)
    return weights, grads, torch.randint(1, 9, (rows,), generator=random)


def bounded(grads: Tensor, limits: np.ndarray) -> np.ndarray:
    """The gradients scaled to the limits, in double precision."""
    values = grads.double().numpy()
    norms = np.linalg.norm(values, axis=1)
    return np.asarray(values * np.minimum(1.0, limits / np.maximum(norms, 1e-300))[:, None])


def test_row_norm_clip_bounds_long_rows_and_leaves_the_others() -> None:
    weights, grads, counts = batch()
    clipped = RowNormClip(max_norm=1.0)(weights, grads, counts)
    np.testing.assert_allclose(clipped, bounded(grads, np.ones(len(grads))), rtol=1e-5)
    short = grads.norm(dim=1) < 0.999
    assert torch.equal(clipped[short], grads[short])
    assert short.any()
    assert not short.all()


def test_cow_clip_in_the_order_of_the_paper() -> None:
    weights, grads, counts = batch()
    norms = np.linalg.norm(weights.double().numpy(), axis=1)
    for ratio, lower in ((0.3, 0.1), (1.0, 1e-5), (0.0, 0.05)):
        clipped = CowClip(ratio=ratio, lower_bound=lower)(weights, grads, counts)
        limits = counts.numpy() * np.maximum(ratio * norms, lower)
        np.testing.assert_allclose(clipped, bounded(grads, limits), rtol=1e-5)


def test_cow_clip_in_the_order_of_the_code() -> None:
    weights, grads, counts = batch()
    norms = np.linalg.norm(weights.double().numpy(), axis=1)
    for ratio, lower in ((0.3, 0.5), (1.0, 0.1)):
        clipped = CowClip(ratio=ratio, lower_bound=lower, order="code")(weights, grads, counts)
        limits = ratio * counts.numpy() * np.maximum(norms, ratio * math.sqrt(10) * lower)
        np.testing.assert_allclose(clipped, bounded(grads, limits), rtol=1e-5)


def test_the_orders_differ_by_the_root_of_the_width_in_the_bound() -> None:
    _, grads, counts = batch()
    weights = torch.zeros_like(grads)
    paper = CowClip(lower_bound=1e-3 * math.sqrt(10), order="paper")(weights, grads, counts)
    code = CowClip(lower_bound=1e-3, order="code")(weights, grads, counts)
    torch.testing.assert_close(paper, code)


@pytest.mark.parametrize("order", ["paper", "code"])
def test_a_large_ratio_clips_nothing_and_the_bound_grows_with_the_count(order: str) -> None:
    weights, grads, counts = batch()
    assert torch.equal(CowClip(ratio=1e6, order=order)(weights, grads, counts), grads)
    once = CowClip(ratio=0.01, order=order)(weights, grads, torch.ones_like(counts))
    twice = CowClip(ratio=0.01, order=order)(weights, 2 * grads, 2 * torch.ones_like(counts))
    torch.testing.assert_close(twice, 2 * once)


@pytest.mark.parametrize(
    "clip", [RowNormClip(max_norm=0.5), CowClip(), CowClip(order="code"), CowClip(lower_bound=0.0)]
)
def test_rows_and_gradients_of_zero_and_of_any_size_stay_finite(clip: RowTransform) -> None:
    grads = torch.tensor([[0.0, 0.0], [1e-45, 0.0], [3e38, -3e38], [1e30, 1.0]])
    counts = torch.ones(4, dtype=torch.int64)
    for weights in (torch.zeros(4, 2), torch.ones(4, 2), torch.full((4, 2), 1e-45)):
        clipped = clip(weights, grads, counts)
        assert clipped.isfinite().all()
        assert torch.equal(clipped[0], grads[0])
        assert (clipped.abs() <= grads.abs()).all()


def test_arguments_are_not_changed() -> None:
    weights, grads, counts = batch()
    before = weights.clone(), grads.clone(), counts.clone()
    CowClip(ratio=0.01)(weights, grads, counts)
    RowNormClip(max_norm=0.01)(weights, grads, counts)
    assert all(torch.equal(a, b) for a, b in zip(before, (weights, grads, counts), strict=True))


@pytest.mark.parametrize("dim", [1, 5, 8, 16, 19, 64])
def test_a_row_has_the_same_bits_alone_and_among_others(dim: int) -> None:
    weights, grads, counts = batch(50, dim)
    for clip in (RowNormClip(max_norm=0.7), CowClip(ratio=0.4, lower_bound=0.01)):
        together = clip(weights, grads, counts)
        for i in range(50):
            alone = clip(weights[i : i + 1], grads[i : i + 1], counts[i : i + 1])
            assert torch.equal(alone[0], together[i])


def test_the_root_is_rounded_correctly() -> None:
    grads = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(1))
    counts = torch.ones(20_000, dtype=torch.int64)
    squares = (grads * grads).numpy()[:, 0]
    norms = np.sqrt(squares)  # as the processor does it
    clipped = RowNormClip(max_norm=0.25)(grads, grads, counts).numpy()[:, 0]
    scales = np.where(norms > 0.25, np.float32(0.25) / norms, np.float32(1.0))
    np.testing.assert_array_equal(clipped, grads.numpy()[:, 0] * scales)


@pytest.mark.parametrize("order", ["paper", "code"])
def test_skipped_columns_are_neither_measured_nor_scaled(order: str) -> None:
    weights, grads, counts = batch()
    clip, rest = CowClip(ratio=0.3, order=order, skip=2), CowClip(ratio=0.3, order=order)
    clipped = clip(weights, grads, counts)
    assert torch.equal(clipped[:, :2], grads[:, :2])
    assert torch.equal(clipped[:, 2:], rest(weights[:, 2:], grads[:, 2:], counts))
    assert torch.equal(clip.over(weights, grads, counts), rest.over(weights[:, 2:], grads[:, 2:], counts))
    everything = CowClip(ratio=0.0, lower_bound=0.0, order=order, skip=10)
    assert torch.equal(everything(weights, grads, counts), grads)
    assert not everything.over(weights, grads, counts).any()


@pytest.mark.parametrize("clip", [RowNormClip(max_norm=0.5), CowClip(ratio=0.5), CowClip(ratio=0.3, order="code")])
def test_over_tells_which_rows_are_clipped(clip: CowClip | RowNormClip) -> None:
    weights, grads, counts = batch()
    over = clip.over(weights, grads, counts)
    assert torch.equal(over, (clip(weights, grads, counts) != grads).any(dim=1))
    assert over.any()
    assert not over.all()


@pytest.mark.parametrize("order", ["paper", "code"])
def test_a_bound_relative_to_the_batch_clips_a_mean_loss_alike_at_every_size(order: str) -> None:
    weights, grads, counts = batch()
    clip = CowClip(ratio=0.5, lower_bound=0.05, order=order)
    whole = clip.relative_to_batch(1)(weights, grads, counts)
    assert torch.equal(whole, clip(weights, grads, counts))
    mean = clip.relative_to_batch(64)(weights, grads / 64, counts)
    torch.testing.assert_close(64 * mean, whole)
    assert not torch.equal(whole, grads)


def test_native_forms() -> None:
    assert RowNormClip(max_norm=2.0).native_form() == (1, (2.0,))
    assert CowClip(ratio=0.5, lower_bound=0.1).native_form() == (2, (0.5, 0.1, 0.0))
    assert CowClip(ratio=0.5, lower_bound=0.1, order="code", skip=1).native_form() == (3, (0.5, 0.1, 1.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: RowNormClip(max_norm=0.0), lambda: RowNormClip(max_norm=float("inf")), lambda: CowClip(ratio=-1.0),
        lambda: CowClip(lower_bound=float("nan")), lambda: CowClip(order="other"), lambda: CowClip(skip=-1),
        lambda: CowClip().relative_to_batch(0),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_refused(make: Callable[[], RowTransform]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()
