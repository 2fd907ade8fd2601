"""The world's rows as Arrow columns, and back: names are a letter and a number, so that both ways are vectorised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.errors import SchemaError
from headrace.feedback.population import Population, Shown
from headrace.feedback.randomness import Floats, Ints
from headrace.feedback.world_config import MICROSECONDS, REFERENCE_POSITION
from headrace.types import Events

REQUEST, USER, ITEM, CATEGORY = "r", "u", "i", "c"
HOUR_US = 3600.0 * MICROSECONDS


def names(letter: str, numbers: Ints) -> pa.Array:
    """Return `letter` + number for each number.

    Example:
        >>> names("u", np.array([3, 14])).to_pylist()
        ['u3', 'u14']
    """
    return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")


def numbers(letter: str, column: pa.Array, what: str) -> Ints:
    """Return the numbers that `names` wrote; SchemaError when the column holds something else.

    Example:
        >>> numbers("u", names("u", np.array([3, 14])), "column 'user'").tolist()
        [3, 14]
    """
    wrong = column.null_count or not pc.all(pc.starts_with(column, letter), min_count=0).as_py()
    if not wrong:
        try:
            return np.asarray(pc.utf8_slice_codeunits(column, 1).cast(pa.int64()).to_numpy(zero_copy_only=False))
        except pa.ArrowInvalid:
            pass
    raise SchemaError(what, got="other text or nulls", expected=f"'{letter}' and a number, as this world names them")


def impressions(population: Population, shown: Shown, positions: Floats | None = None) -> Events:
    """Return rows of kind `impression` with every feature; without positions they carry the reference position."""
    places = pa.array([place.name for place in population.config.places])
    age_h = (shown.times - population.born(shown.items)) / HOUR_US
    count = len(shown.items)
    where = np.full(count, REFERENCE_POSITION) if positions is None else positions
    return Events.from_columns({
        "key": names(REQUEST, shown.requests),
        "kind": pa.repeat(pa.scalar("impression"), count),
        "event_time": shown.times,
        "item": names(ITEM, shown.items),
        "user": names(USER, shown.users),
        "category": names(CATEGORY, population.categories(shown.items)),
        "scenario": places.take(pa.array(shown.places)),
        "age_h": age_h.astype(np.float32),
        "position": where.astype(np.float32),
    })  # fmt: skip


def clicks(taken: dict[str, Ints]) -> Events:
    """Return rows of kind `click` from what `PendingClicks.pop` took out."""
    return Events.from_columns({
        "key": names(REQUEST, taken["requests"]),
        "kind": pa.repeat(pa.scalar("click"), len(taken["items"])),
        "event_time": taken["times"],
        "item": names(ITEM, taken["items"]),
        "arrival_time": taken["arrivals"],
    })  # fmt: skip


def parse(population: Population, events: Events) -> Shown:
    """Return what the columns key, user, item, scenario and event_time of impressions say.

    Raises:
        SchemaError: If a column is missing or holds a name that is not of this world.
    """
    items = numbers(ITEM, events.column("item"), "Events column 'item'")
    users = numbers(USER, events.column("user"), "Events column 'user'")
    known = [place.name for place in population.config.places]
    found = pc.index_in(events.column("scenario"), value_set=pa.array(known))
    if found.null_count:
        raise SchemaError("Events column 'scenario'", got="another place", expected=f"one of {known}")
    people = population.config.users + population.config.bots
    if len(users) and not (users.min() >= 0 and users.max() < people and items.min() >= 0):
        raise SchemaError("Events", got="users or items that do not exist", expected="rows of this world")
    return Shown(
        requests=numbers(REQUEST, events.column("key"), "Events column 'key'"), users=users, items=items,
        places=found.to_numpy(zero_copy_only=False).astype(np.int64), times=events.times,
    )  # fmt: skip


def select(shown: Shown, rows: Ints) -> Shown:
    """Return some of the rows, in that order."""
    return Shown(
        requests=shown.requests[rows], users=shown.users[rows], items=shown.items[rows],
        places=shown.places[rows], times=shown.times[rows],
    )  # fmt: skip


def join(parts: Sequence[Shown]) -> Shown:
    """Put rows one behind another."""
    return Shown(
        requests=np.concatenate([part.requests for part in parts]),
        users=np.concatenate([part.users for part in parts]),
        items=np.concatenate([part.items for part in parts]),
        places=np.concatenate([part.places for part in parts]),
        times=np.concatenate([part.times for part in parts]),
    )  # fmt: skip
