from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.store.precision import (
    PRECISION_CODES,
    Precision,
    decode,
    encode,
    encode_stochastic,
    encoded_bytes,
    rounded,
    rounding_streams,
)

LARGEST = np.finfo(np.float32).max
KEY = 0x1234_5678_9ABC_DEF1


def any_floats(count: int, seed: int = 0) -> np.ndarray:
    """Finite float32 of every size, half of them with bits drawn at random."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    drawn = bits.view(np.float32)
    usual = (random.normal(size=count) * 2.0 ** random.uniform(-30, 18, count)).astype(np.float32)
    return np.where(np.isfinite(drawn) & (np.arange(count) % 2 == 0), drawn, usual).astype(np.float32)


def starts(count: int, step: int = 1) -> np.ndarray:
    return rounding_streams(KEY, np.arange(count, dtype=np.int64), step)


@pytest.mark.parametrize("precision", PRECISION_CODES)
@pytest.mark.parametrize("dim", [1, 3, 4, 17])
def test_shapes_and_float32_come_back(precision: Precision, dim: int) -> None:
    rows = any_floats(5 * dim).reshape(5, dim)
    encoded = encode(rows, precision)
    assert encoded.shape == (5, encoded_bytes(precision, dim))
    back = decode(encoded, precision, dim)
    assert back.shape == rows.shape
    assert back.dtype == np.float32
    if precision == "float32":
        np.testing.assert_array_equal(back, rows)
    assert encode(rows[:0], precision).shape == (0, encoded_bytes(precision, dim))


def test_nearest_float16_is_that_of_numpy() -> None:
    rows = any_floats(400_000).reshape(-1, 8)
    limited = np.clip(rows, -65504.0, 65504.0).astype(np.float16)
    np.testing.assert_array_equal(encode(rows, "float16").view(np.uint16), limited.view(np.uint16))


def test_nearest_bfloat16_is_that_of_torch() -> None:
    rows = any_floats(400_000).reshape(-1, 8)
    wanted = torch.tensor(rows).to(torch.bfloat16).float().numpy()
    got = rounded(rows, "bfloat16")
    held = np.isfinite(wanted)
    np.testing.assert_array_equal(got[held], wanted[held])
    np.testing.assert_array_equal(np.abs(got[~held]), np.float32(3.3895314e38))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_exact_values_are_never_changed(precision: Precision) -> None:
    bits = np.arange(65_536, dtype=np.uint16)[:, None]
    values = decode(np.ascontiguousarray(bits).view(np.uint8), precision, 1)
    held = np.isfinite(values[:, 0])
    for step in (1, 2, 3):
        drawn = encode_stochastic(values[held], precision, starts(int(held.sum()), step))
        np.testing.assert_array_equal(drawn.view(np.uint16), bits[held])
    np.testing.assert_array_equal(encode(values[held], precision).view(np.uint16), bits[held])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("value", [1.0009, -0.3333, 6.1e-5, -3.3e-6, 1e-7, 700.3])
def test_the_mean_of_stochastic_rounding_is_the_value(precision: Precision, value: float) -> None:
    count, dim = 20_000, 20
    rows = np.full((count, dim), value, np.float32)
    drawn = rounded(rows, precision, starts(count)).astype(np.float64)
    low, high = drawn.min(), drawn.max()
    assert low <= rows[0, 0] <= high
    assert set(np.unique(drawn)) == {low, high}  # the two neighbours
    deviation = np.sqrt((high - rows[0, 0]) * (rows[0, 0] - low) / drawn.size)
    assert abs(drawn.mean() - np.float64(rows[0, 0])) < 5 * deviation + (high - low) / 2**16
    np.testing.assert_allclose(drawn.mean(0), rows[0, 0], atol=5 * deviation * np.sqrt(dim) + (high - low) / 2**16)


def test_small_steps_add_up_where_nearest_stands_still() -> None:
    nearest = drawn = np.ones((500, 4), np.float32)
    for step in range(1, 201):
        nearest = rounded(nearest + np.float32(1e-4), "bfloat16")
        drawn = rounded(drawn + np.float32(1e-4), "bfloat16", starts(500, step))
    np.testing.assert_array_equal(nearest, 1.0)
    assert abs(drawn.mean() - 1.02) < 1e-3


def test_random_bits_depend_on_key_id_update_and_coordinate() -> None:
    rows = np.full((200, 32), 1.002, np.float32)
    first = rounded(rows, "bfloat16", starts(200))
    np.testing.assert_array_equal(first, rounded(rows, "bfloat16", starts(200)))
    others = (
        rounded(rows, "bfloat16", starts(200, step=2)),
        rounded(rows, "bfloat16", rounding_streams(KEY + 1, np.arange(200), 1)),
        np.roll(first, 1, axis=0), np.roll(first, 1, axis=1), np.roll(first, 4, axis=1), np.roll(first, 16, axis=1),
    )  # fmt: skip
    share = np.mean(first != 1.0)
    expected = 2 * share * (1 - share)  # of pairs that differ by chance
    for other in others:
        assert abs(np.mean(first != other) - expected) < 0.04


def test_the_bits_of_a_coordinate_do_not_depend_on_the_width() -> None:
    rows = any_floats(50 * 70).reshape(50, 70)
    wide = encode_stochastic(rows, "float16", starts(50)).view(np.uint16)
    for dim in (1, 5, 64, 67):
        narrow = encode_stochastic(rows[:, :dim].copy(), "float16", starts(50)).view(np.uint16)
        np.testing.assert_array_equal(narrow, wide[:, :dim])


@pytest.mark.parametrize("precision", PRECISION_CODES)
def test_every_finite_number_stays_finite(precision: Precision) -> None:
    rows = np.concatenate([any_floats(80_000, seed=1), [LARGEST, -LARGEST, 0.0, -0.0, 1e-45, -1e-45, 7e4, -7e4]])
    rows = rows.astype(np.float32).reshape(-1, 8)
    for streams in (None, starts(len(rows))):
        got = rounded(rows, precision, streams)
        assert np.isfinite(got).all()
        assert not np.any(np.sign(got) * np.sign(rows) < 0)
        assert np.all(np.abs(got) <= {"float16": 65504.0}.get(precision, LARGEST))
        np.testing.assert_array_equal(rounded(got, precision), got)  # what was rounded is exact


def test_float16_saturates_and_keeps_signs() -> None:
    rows = np.array([[1e5, -1e5, 65519.0, -0.0]], np.float32)
    for streams in (None, starts(1)):
        got = rounded(rows, "float16", streams)
        np.testing.assert_array_equal(got, [[65504.0, -65504.0, 65504.0, 0.0]])
        assert np.signbit(got[0, 3])


def test_int8_is_off_by_half_a_level_at_most() -> None:
    rows = np.random.default_rng(2).normal(size=(300, 17)).astype(np.float32)
    got = rounded(rows, "int8")
    levels = np.abs(rows).max(1, keepdims=True) / 127
    assert np.all(np.abs(got - rows) <= 0.50001 * levels)
    np.testing.assert_allclose(np.abs(got).max(1), np.abs(rows).max(1), rtol=1e-6)


def test_int8_layout_and_rows_without_a_scale() -> None:
    rows = np.array([[127.0, -63.5, 0.5, 1.5, 2.5], [0, 0, 0, 0, 0], [1e-45, 0, 0, 0, 0]], np.float32)
    encoded = encode(rows, "int8")
    assert encoded.shape == (3, 12)
    assert encoded[0, :4].view(np.float32)[0] == 1.0
    np.testing.assert_array_equal(encoded[0, 4:9].view(np.int8), [127, -64, 0, 2, 2])  # ties to even
    assert not encoded[1:].any()
    assert not encoded[:, 9:].any()
    np.testing.assert_array_equal(encode_stochastic(rows, "int8", starts(3)), encoded)
