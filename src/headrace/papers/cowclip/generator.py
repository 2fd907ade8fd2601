"""Clicks drawn from a law that was fitted to the Criteo sample: id frequencies, and what ids do to the log-odds.

The law (`generator.json`, refitted by `scripts/fit_click_generator.py`) has a few numbers per field; rows are drawn
when they are needed. Frequencies: the commonest ids as they were counted, the others by a Zipf-Mandelbrot law with as
many ids as the growth of their number in the sample calls for. Labels: a bias, a first-order weight per id, and a
product of low rank between every two fields. Weights do not depend on frequency, so rare ids carry as much signal in a
row as common ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from headrace.config import require

Floats = npt.NDArray[np.float64]
CHUNK = 1 << 18
"""Rows drawn at a time: what is drawn does not depend on how many rows are asked for after them."""


@dataclass(frozen=True, slots=True)
class FieldLaw:
    """One field.

    Attributes:
        name: Of the column in the sample.
        head: Shares of the commonest ids, largest first.
        exponent, shift: Tail: the k-th id after the head has a share that goes as ``(k + shift)^-exponent``.
        ids: Number of ids, the head's included.
        spread: Standard deviation of the first-order weights of the ids.
    """

    name: str
    head: tuple[float, ...]
    exponent: float
    shift: float
    ids: int
    spread: float

    def __post_init__(self) -> None:
        require(
            self.ids >= max(len(self.head), 1), f"Field {self.name}, ids", got=self.ids, expected="the head at least"
        )
        require(sum(self.head) <= 1.0 + 1e-6, f"Field {self.name}, head", got=sum(self.head), expected="at most 1")

    def shares(self) -> Floats:
        """Return how often each id (ids,) occurs, most frequent group first."""
        head = np.asarray(self.head)
        ranks = np.arange(1, self.ids - len(head) + 1, dtype=np.float64)
        tail = (ranks + self.shift) ** -self.exponent
        left = max(1.0 - float(head.sum()), 0.0)
        shares = np.concatenate([head, tail * (left / tail.sum()) if len(tail) else tail])
        return np.asarray(shares / shares.sum(), np.float64)


@dataclass(frozen=True, slots=True)
class ClickLaw:
    """All fields, and what makes a click.

    Attributes:
        fields: In order.
        bias: Log-odds of a row whose ids do nothing.
        rank: Of the products between fields.
        factor_spread: Standard deviation of the ids' factors; 0: no products.
        truth_seed: The ids' weights and factors are drawn from it.
    """

    fields: tuple[FieldLaw, ...]
    bias: float
    rank: int
    factor_spread: float
    truth_seed: int = 7

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(field.name for field in self.fields)

    def weights(self, place: int) -> npt.NDArray[np.float32]:
        """Return first-order weight and factors (ids, 1 + rank) of one field's ids."""
        field = self.fields[place]
        drawn = np.random.default_rng([self.truth_seed, place]).standard_normal((field.ids, 1 + self.rank), np.float32)
        drawn *= np.array([field.spread, *[self.factor_spread] * self.rank], np.float32)
        return drawn


@dataclass(frozen=True, slots=True)
class Clicks:
    """Rows.

    Shapes: ids (rows, fields) int32, from 0, the same number in two fields being two ids; labels (rows,) 0 or 1;
    chances (rows,), the true probability of a click.
    """

    ids: npt.NDArray[np.int32]
    labels: npt.NDArray[np.float32]
    chances: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)


def criteo_law() -> ClickLaw:
    """Return the law that was fitted to the Criteo sample."""
    content = json.loads((files(__package__) / "generator.json").read_text(encoding="utf-8"))
    fields = tuple(FieldLaw(**{**field, "head": tuple(field["head"])}) for field in content["fields"])
    return ClickLaw(fields, content["bias"], content["rank"], content["factor_spread"], content["truth_seed"])


def draw(law: ClickLaw, rows: int, seed: int) -> Clicks:
    """Draw rows; equal arguments give equal rows, and fewer rows are the first of more.

    Cost: memory of the result, and of one field's weights; about a second per million rows and four fields.
    """
    require(rows >= 1, "draw, rows", got=rows, expected="a positive number")
    ids = np.empty((rows, len(law.fields)), np.int32)
    logits, sums = np.full(rows, law.bias, np.float32), np.zeros((rows, law.rank), np.float32)
    squares = np.zeros(rows, np.float32)
    for place, field in enumerate(law.fields):
        edges, weights = np.cumsum(field.shares()), law.weights(place)
        chance = np.random.default_rng([seed, place])
        for start in range(0, rows, CHUNK):
            cut = slice(start, min(start + CHUNK, rows))
            found = np.searchsorted(edges, chance.random(CHUNK)[: cut.stop - start], side="right")
            ids[cut, place] = np.minimum(found, field.ids - 1)
            drawn = weights[ids[cut, place]]
            logits[cut] += drawn[:, 0]
            sums[cut] += drawn[:, 1:]
            squares[cut] += np.square(drawn[:, 1:]).sum(axis=1)
    logits += 0.5 * (np.square(sums).sum(axis=1) - squares)
    chances = 1.0 / (1.0 + np.exp(-logits))
    coin = np.random.default_rng([seed, len(law.fields)])
    labels = np.concatenate([coin.random(CHUNK) for _ in range(0, rows, CHUNK)])[:rows] < chances
    return Clicks(ids, labels.astype(np.float32), chances.astype(np.float32))
