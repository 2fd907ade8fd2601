"""Texts that people wrote: reviews of films with what they thought of them, and classic books to write like.

The reviews are the training half of the Large Movie Review Dataset (Maas et al. 2011); the books are a seeded sample of
public-domain prose. Reviews are cut by film, books by book: no film and no book is in two parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from headrace.config import require
from headrace.data.datasets.text_rows import rows_of
from headrace.data.hashing import hash_strings

REVIEWS, BOOKS = "imdb_reviews_train.jsonl", "classic_books_corpus.jsonl"
REVIEWS_ADDRESS = "ai.stanford.edu/~amaas/data/sentiment (as JSON lines: label, rating, title_id, text)"
BOOKS_ADDRESS = "github.com/mlschmitt/classic-books-markdown (as JSON lines: author, title, text)"
SHARES = 1000
"""What a key is hashed to, to say which part it is in."""
_BREAKS = re.compile(r"(?:<br\s*/?>|\s)+")


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Texts, what they belong to, and what their writers thought.

    Attributes:
        texts: The texts.
        owners: The film or the book of each.
        ratings: From 1 (worst) to 10 (best); 0 where nobody rated.
    """

    texts: tuple[str, ...]
    owners: tuple[str, ...]
    ratings: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Texts:
        """Return some of them."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        chosen = places.tolist()
        return Texts(tuple(self.texts[row] for row in chosen), tuple(self.owners[row] for row in chosen),
                     self.ratings[places])  # fmt: skip

    def parts(self, shares: Mapping[str, float]) -> dict[str, Texts]:
        """Return parts by name, each about its share; all texts of one owner are in one part.

        Raises:
            ConfigError: If the shares are not positive, or more than all.

        Example:
            >>> texts = Texts(("a", "b", "c"), ("x", "y", "x"), np.zeros(3, np.int64))
            >>> cut = texts.parts({"one": 0.5, "other": 0.5})
            >>> len(cut["one"]) + len(cut["other"])
            3
        """
        require(all(share > 0 for share in shares.values()) and sum(shares.values()) <= 1.0 + 1e-9, "parts, shares",
                got=dict(shares), expected="positive shares of 1 in all")  # fmt: skip
        places = hash_strings(pa.array(self.owners, pa.string())).view(np.uint64) % np.uint64(SHARES)
        found, start = {}, 0.0
        for name, share in shares.items():
            end = start + share * SHARES
            found[name] = self.take((places >= round(start)) & (places < round(end)))
            start = end
        return found


def reviews() -> Texts:
    """Return the reviews; the owner of each is its film.

    Raises:
        DataError: If the file is missing or malformed.
    """
    table = rows_of("film reviews", REVIEWS, REVIEWS_ADDRESS)
    texts = tuple(_BREAKS.sub(" ", text).strip() for text in table["text"].to_pylist())
    return Texts(texts, tuple(table["title_id"].to_pylist()), table["rating"].to_numpy().astype(np.int64))


def books(count: int | None = None) -> Texts:
    """Return books, the owner of each its title.

    Args:
        count: Only the first so many; None: all.

    Raises:
        DataError: If the file is missing or malformed.
    """
    table = rows_of("classic books", BOOKS, BOOKS_ADDRESS, rows=count)
    texts = tuple(_BREAKS.sub(" ", text).strip() for text in table["text"].to_pylist())
    owners = [f"{author}: {title}" for author, title in zip(table["author"].to_pylist(), table["title"].to_pylist(),
                                                            strict=True)]  # fmt: skip
    return Texts(texts, tuple(owners), np.zeros(len(texts), np.int64))
