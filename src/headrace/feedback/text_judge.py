"""A judge of texts that is no network: counts of words and of pairs of words, weighed by a logistic regression.

It stands for the people whom a policy should please. A policy never sees it, and it is of another kind and of other
texts than any reward model, so that what pleases a reward model alone does not please it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.config import require

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[.!?,]")
NUMBERS = 4
"""Numbers about a whole text: shares of unknown words, of unknown pairs, of repeated words; and its length."""


class TextJudge:
    """The probability that a text is a good one; made by `TextJudge.fitted`.

    A text is the set of its words and of its pairs of neighbouring words, as far as the judge knows them, and four
    numbers: which shares of words and of pairs it does not know, which share is said again, and how long it is. So
    nothing is gained by saying a good word twice, and words in no order are not taken for a text.

    Args:
        words: Known words, with the place of each.
        pairs: Known pairs of words, likewise; places go on behind those of the words.
        weights: One per place, (P,).
        dense: Weights of the numbers, (4,), and the constant last, (5,).

    Thread-safety: any number of threads may ask.
    """

    def __init__(
        self, words: dict[str, int], pairs: dict[tuple[str, str], int], weights: npt.NDArray[np.float64],
        dense: npt.NDArray[np.float64],
    ) -> None:  # fmt: skip
        self.words, self.pairs, self.weights, self.dense = words, pairs, weights, dense

    @staticmethod
    @torch.enable_grad()
    def fitted(
        good: Sequence[str], bad: Sequence[str], known: Iterable[str], *, epochs: int = 6, rate: float = 0.02,
        decay: float = 1e-3, seed: int = 0,
    ) -> TextJudge:  # fmt: skip
        """Return a judge that tells good texts from bad ones.

        Args:
            good: Good texts.
            bad: Bad ones.
            known: Texts whose words (said three times or more) and pairs (twice or more) it knows.
            epochs: How often it reads them.
            rate: Learning rate (Adam).
            decay: L2 of the weights of words and pairs, against those that are good by chance.
            seed: Order of reading.

        Raises:
            ConfigError: If a side is empty.

        Cost: some ten seconds for 30,000 short texts.
        """
        require(min(len(good), len(bad)) > 0, "TextJudge", got=(len(good), len(bad)), expected="texts of both kinds")
        words, pairs = _known(known)
        judge = TextJudge(words, pairs, np.zeros(len(words) + len(pairs)), np.zeros(NUMBERS + 1))
        labels = torch.tensor([1.0] * len(good) + [0.0] * len(bad))
        values, offsets, dense = judge._read([*good, *bad])
        table = nn.EmbeddingBag(max(len(judge.weights), 1), 1, mode="sum")
        linear = nn.Linear(NUMBERS, 1)
        for one in (table.weight, linear.weight, linear.bias):
            nn.init.zeros_(one)
        adam = torch.optim.Adam([*table.parameters(), *linear.parameters()], lr=rate)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(labels), generator=draw), 512):
                some, starts = _some(values, offsets, rows)
                logits = (table(some, starts) + linear(dense[rows])).squeeze(1)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
                loss = loss + decay * table.weight[some].square().sum() / len(rows)
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
        constants = torch.cat((linear.weight.flatten(), linear.bias)).detach().double().numpy()
        return TextJudge(words, pairs, table.weight.detach().flatten().double().numpy(), constants)

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the probability of each text that it is a good one, (B,)."""
        values, offsets, dense = self._read(texts)
        rows = np.repeat(np.arange(len(texts)), np.diff(offsets.numpy()))
        sums = np.bincount(rows, self.weights[values.numpy()], minlength=len(texts))
        logits = sums + dense.double().numpy() @ self.dense[:-1] + self.dense[-1]
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))))

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the known words and pairs of texts, with offsets, and the numbers about each (B, 4)."""
        found, offsets, numbers = list[int](), [0], list[tuple[float, ...]]()
        for text in texts:
            said = WORD.findall(text.lower())
            next_to = list(pairwise(said))
            words = {self.words[word] for word in said if word in self.words}
            pairs = {self.pairs[pair] for pair in next_to if pair in self.pairs}
            found += sorted(words | pairs)
            offsets.append(len(found))
            count, count_pairs = max(len(said), 1), max(len(next_to), 1)
            numbers.append((
                sum(word not in self.words for word in said) / count,
                sum(pair not in self.pairs for pair in next_to) / count_pairs,
                1.0 - len(set(said)) / count, np.log1p(len(said)),
            ))  # fmt: skip
        return (torch.tensor(found, dtype=torch.int64), torch.tensor(offsets),
                torch.tensor(numbers, dtype=torch.float32).view(len(texts), NUMBERS))  # fmt: skip


def broken(texts: Sequence[str], seed: int = 0) -> list[str]:
    """Return texts that nobody wrote, made of real ones: words in no order, a phrase again and again, words of others.

    Example:
        >>> sorted(broken(["a fine film"])[0].split())
        ['a', 'film', 'fine']
    """
    draw, made = np.random.default_rng(seed), []
    pool = [word for text in texts for word in text.split()]
    for place, text in enumerate(texts):
        words = text.split()
        if place % 3 == 1 and words:
            size = int(draw.integers(1, 4))
            at = int(draw.integers(0, max(len(words) - size, 0) + 1))
            kept = int(draw.integers(0, max(len(words) // 2, 1)))  # a good beginning, and then the phrase
            words = (words[:kept] + words[at : at + size] * len(words))[: len(words)]
        elif place % 3 == 2:
            words = [pool[int(draw.integers(0, len(pool)))] for _ in words]
        else:
            words = [words[int(row)] for row in draw.permutation(len(words))]
        made.append(" ".join(words))
    return made


def _known(texts: Iterable[str]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    words, pairs = Counter[str](), Counter[tuple[str, str]]()
    for text in texts:
        said = WORD.findall(text.lower())
        words.update(said)
        pairs.update(pairwise(said))
    known = {word: place for place, word in enumerate(sorted(word for word, count in words.items() if count >= 3))}
    both = sorted(pair for pair, count in pairs.items() if count >= 2)
    return known, {pair: place for place, pair in enumerate(both, len(known))}


def _some(values: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of some rows, and where each begins."""
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    begins = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)[:-1]))
    places = torch.arange(int(lengths.sum())) + torch.repeat_interleave(starts - begins, lengths)
    return values[places], begins
