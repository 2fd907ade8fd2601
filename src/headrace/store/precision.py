"""Encoded rows: float32, bfloat16, float16, and int8 with a scale a row. The native table has the same in csrc/rules.

A row that learns in fewer bits than float32 would stand still where its steps are smaller than the distance to the
next number. Stochastic rounding goes up or down with the probabilities that keep the mean, so small steps add up.
Its random bits are drawn from (key, id, number of the update), never from a running generator: equal updates give
equal bits on every machine and in any order.

Numbers beyond the range become the largest finite one. Input is finite; an infinity is encoded as that largest number.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from headrace.store.hashing import IdArray, KeyArray, draws, streams
from headrace.store.row_rules import FloatArray

Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8"]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
_Bits: TypeAlias = npt.NDArray[np.uint32]

PRECISION_CODES: dict[Precision, int] = {"float32": 0, "bfloat16": 1, "float16": 2, "int8": 3}
"""The codes of csrc/rules/kernels.h."""

_U, _F = np.uint32, np.float32
_STEP = 0xD1342543DE82EF95  # of the streams of one id from update to update; another odd number than between draws
_LARGEST_BFLOAT16, _LARGEST_HALF = _U(0x7F7F), _U(0x7BFF)
_SMALLEST_NORMAL_HALF = _U(0x38800000)  # 2^-14 as float32
_LARGEST_SCALE = np.nextafter(np.finfo(_F).max / _F(127.0), _F(0.0))  # 127 times it is finite
_HALF_REBIAS = _U(112 << 10)  # 127 - 15 at the place of a half's exponent


def encoded_bytes(precision: Precision, dim: int) -> int:
    """Return the bytes of an encoded row: 4, 2 or 2 a coordinate; int8 takes its scale and whole groups of 4 bytes.

    Example:
        >>> [encoded_bytes(name, 10) for name in PRECISION_CODES]
        [40, 20, 20, 16]
    """
    if precision == "int8":
        return 4 + (dim + 3) // 4 * 4
    return dim * (4 if precision == "float32" else 2)


def rounding_streams(key: int, ids: IdArray, step: int) -> KeyArray:
    """Return the streams (N,) of random bits with which the rows of ids are rounded by update number `step`."""
    return streams(key, ids) + np.uint64(step * _STEP % 2**64)


def encode(rows: FloatArray, precision: Precision) -> ByteArray:
    """Return rows (N, D) as bytes (N, `encoded_bytes`), rounded to the nearest, ties to even."""
    rows = np.ascontiguousarray(rows, np.float32)
    if precision == "float32":
        return rows.view(np.uint8).reshape(len(rows), 4 * rows.shape[1]).copy()
    if precision == "int8":
        return _encode_int8(rows)
    sizes, signs = _parts(rows)
    if precision == "bfloat16":
        rounded = np.minimum((sizes + _U(0x7FFF) + (sizes >> _U(16) & _U(1))) >> _U(16), _LARGEST_BFLOAT16)
    else:
        normal = ((sizes + _U(0xFFF) + (sizes >> _U(13) & _U(1))) >> _U(13)) - _HALF_REBIAS
        small = (_small(sizes) + _F(0.5)).view(np.uint32) - _U(0x3F000000)  # the grid of 0.5 is that of the subnormals
        rounded = np.where(sizes < _SMALLEST_NORMAL_HALF, small, np.minimum(normal, _LARGEST_HALF))
    return _bytes(signs | rounded)


def encode_stochastic(rows: FloatArray, precision: Precision, starts: KeyArray) -> ByteArray:
    """Return rows (N, D) as bytes, bfloat16 and float16 rounded up or down so that the mean is kept.

    The other precisions are rounded as by `encode`. Draw k of a row's stream serves coordinates 4 k to 4 k + 3 with
    16 bits each, lowest first. They are added below the last bit that is kept of the number's size, and what is below
    that bit is dropped; float16 uses the upper 13 bits for its normal numbers. A float16 subnormal knows its distance
    to the next one to 16 bits, so what is below 2^-40 is dropped.

    Args:
        rows: Finite float32.
        precision: What to round to.
        starts: Streams (N,) from `rounding_streams`.
    """
    if precision not in ("bfloat16", "float16"):
        return encode(rows, precision)
    sizes, signs = _parts(np.ascontiguousarray(rows, np.float32))
    random = _random_bits(starts, rows.shape[1])
    if precision == "bfloat16":
        return _bytes(signs | np.minimum((sizes + random) >> _U(16), _LARGEST_BFLOAT16))
    normal = ((sizes + (random >> _U(3))) >> _U(13)) - _HALF_REBIAS
    small = ((_small(sizes) * _F(2.0**40)).astype(np.uint32) + random) >> _U(16)
    return _bytes(signs | np.where(sizes < _SMALLEST_NORMAL_HALF, small, np.minimum(normal, _LARGEST_HALF)))


def decode(encoded: ByteArray, precision: Precision, dim: int) -> FloatArray:
    """Return the rows (N, D) that bytes (N, `encoded_bytes`) stand for, exactly."""
    encoded = np.ascontiguousarray(encoded)
    if precision == "float32":
        return encoded.view(np.float32).copy()
    if precision == "float16":
        return encoded.view(np.float16).astype(np.float32)
    if precision == "bfloat16":
        return (encoded.view(np.uint16).astype(np.uint32) << _U(16)).view(np.float32)
    scales = np.ascontiguousarray(encoded[:, :4]).view(np.float32)
    return np.asarray(scales * encoded[:, 4 : 4 + dim].view(np.int8).astype(np.float32), np.float32)


def rounded(rows: FloatArray, precision: Precision, starts: KeyArray | None = None) -> FloatArray:
    """Return rows (N, D) as they read after encoding: to the nearest, or stochastically with streams (N,).

    Example:
        >>> rounded(np.array([[1.001, 7e4]], np.float32), "float16").tolist()
        [[1.0009765625, 65504.0]]
    """
    encoded = encode(rows, precision) if starts is None else encode_stochastic(rows, precision, starts)
    return decode(encoded, precision, rows.shape[1])


def _parts(rows: FloatArray) -> tuple[_Bits, _Bits]:
    """Return the bits of sizes, and signs where 16-bit numbers have them."""
    bits = rows.view(np.uint32)
    return bits & _U(0x7FFFFFFF), bits >> _U(16) & _U(0x8000)


def _small(sizes: _Bits) -> FloatArray:
    """Return sizes below 2^-14, and 2^-14 for the others: what float16 subnormals are made from."""
    return np.minimum(sizes, _SMALLEST_NORMAL_HALF).view(np.float32)


def _random_bits(starts: KeyArray, dim: int) -> _Bits:
    words = draws(starts, (dim + 3) // 4)[:, :, None] >> np.array([0, 16, 32, 48], np.uint64)
    return (words & np.uint64(0xFFFF)).astype(np.uint32).reshape(len(starts), (dim + 3) // 4 * 4)[:, :dim]


def _bytes(halves: _Bits) -> ByteArray:
    return np.ascontiguousarray(halves.astype("<u2")).view(np.uint8).reshape(len(halves), 2 * halves.shape[1])


def _encode_int8(rows: FloatArray) -> ByteArray:
    """Return [scale float32][int8...]; a row too small to have a scale is zeros with scale 0."""
    count, dim = rows.shape
    scales = np.minimum(np.abs(rows).max(axis=1, initial=0.0) / _F(127.0), _LARGEST_SCALE)
    ratios = rows / np.where(scales == 0.0, _F(1.0), scales)[:, None]
    levels = np.rint(np.clip(ratios, -127.0, 127.0)).astype(np.int8)
    levels[scales == 0.0] = 0
    encoded = np.zeros((count, encoded_bytes("int8", dim)), np.uint8)
    encoded[:, :4] = np.ascontiguousarray(scales[:, None], "<f4").view(np.uint8)
    encoded[:, 4 : 4 + dim] = levels.view(np.uint8)
    return encoded
