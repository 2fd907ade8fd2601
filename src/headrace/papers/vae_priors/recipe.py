"""The data of the claim: what MovieLens' users liked and what is known of them, and a world with a planted answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import codes, find_in, missing, read_table
from headrace.data.layout import Layout

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

ADDRESS = "grouplens.org/datasets/movielens/100k (as RecBole's atomic files, github.com/RUCAIBox/RecBole)"
LIKED_FROM = 4.0
"""A rating of this and more is a like; others are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Likes:
    """Who liked what, and what is known of people and items.

    Shapes: owners, items (N,) codes of users and items, every pair once; kinds (M, G), the genres of items as 0 and 1;
    people (U, C), numbers about users.
    """

    owners: Integers
    items: Integers
    kinds: Floats
    people: Floats

    @property
    def users(self) -> int:
        """Number of users U."""
        return len(self.people)

    @property
    def catalogue(self) -> int:
        """Number of items M."""
        return len(self.kinds)

    def of(self, user: int) -> Integers:
        """Return what a user liked."""
        own: Integers = self.items[self.owners == user]
        return own


def movielens() -> Likes:
    """Return MovieLens 100K: ratings of 4 and 5 are likes; genres of movies; age, gender and occupation of users.

    Raises:
        DataError: If a file is missing.
    """
    ratings = _file("ml100k.inter", {"rating:float": "float64"})
    liked = ratings.filter(pc.greater_equal(ratings["rating:float"], LIKED_FROM))
    users, movies = _file("ml100k.user", {"age:token": "float64"}), _file("ml100k.item", {})
    known = pc.index_in(movies["item_id:token"], value_set=pc.unique(liked["item_id:token"]))
    movies = movies.filter(pc.is_valid(known))  # what nobody liked cannot be learned, nor found
    owners = pc.index_in(liked["user_id:token"], value_set=users["user_id:token"].combine_chunks())
    items = pc.index_in(liked["item_id:token"], value_set=movies["item_id:token"].combine_chunks())
    genres = pc.split_pattern(movies["class:token_seq"].combine_chunks(), " ")
    gender = np.array(users["gender:token"].to_pylist()) == "F"
    people = [users["age:token"].to_numpy()[:, None], gender[:, None], _one_hot(codes(users["occupation:token"]))]
    return Likes(owners.to_numpy().astype(np.int64), items.to_numpy().astype(np.int64), _several_hot(genres),
                 np.concatenate(people, axis=1).astype(np.float64))  # fmt: skip


def _file(name: str, types: dict[str, str]) -> pa.Table:
    found = find_in((name,))
    if found is None:
        raise missing("MovieLens 100K", (name,), ADDRESS)
    return read_table(found, Layout(format="csv", delimiter="\t", quote=False, types=types))


def _one_hot(values: Integers) -> Floats:
    return np.eye(int(values.max()) + 1)[values]


def _several_hot(lists: pa.ListArray) -> Floats:
    flat = codes(lists.flatten())
    rows = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy())
    hot = np.zeros((len(lists), int(flat.max()) + 1))
    hot[rows, flat] = 1.0
    return hot


def planted(
    *, users: int = 300, items: int = 120, genres: int = 6, likes: tuple[int, int] = (24, 40), seed: int = 0
) -> Likes:
    """Draw people who each love one genre, which `people` tells, and like its items five times as often as others."""
    draw = np.random.default_rng(seed)
    genre_of, loves = np.arange(items) % genres, draw.integers(0, genres, users)
    appeal = draw.gamma(1.0, size=items) + 0.1
    owners, liked = [], []
    for user in range(users):
        weights = appeal * np.where(genre_of == loves[user], 5.0, 1.0)
        count = int(draw.integers(likes[0], likes[1]))
        liked.append(draw.choice(items, count, replace=False, p=weights / weights.sum()))
        owners.append(np.full(count, user))
    return Likes(np.concatenate(owners), np.concatenate(liked).astype(np.int64), np.eye(genres)[genre_of],
                 np.eye(genres)[loves])  # fmt: skip
