"""Features of hotel lists that only the past is needed for: price within the list, what the user saw and clicked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def list_features(lists: Integers, price: Floats) -> dict[str, npt.NDArray[np.generic]]:
    """Return features of a row within its list.

    Args:
        lists: Number of the list of every row, (N,), ascending from 0.
        price: Prices, (N,).

    Returns:
        `list_length` (N,); `price_rank` (N,) from 1, cheapest first, ties by position; `price_share`: that rank over
        the length; `price_over_mean`: ln(1 + price) minus its mean in the list.
    """
    lengths = np.bincount(lists)
    starts = np.cumsum(lengths) - lengths
    order = np.lexsort((np.arange(len(lists)), price, lists))
    rank = np.empty(len(lists), dtype=np.int64)
    rank[order] = np.arange(len(lists)) - starts[lists[order]] + 1
    logs = np.log1p(price.astype(np.float64))
    means = np.bincount(lists, weights=logs) / np.maximum(lengths, 1)
    return {
        "list_length": lengths[lists],
        "price_rank": rank,
        "price_share": (rank / lengths[lists]).astype(np.float32),
        "price_over_mean": (logs - means[lists]).astype(np.float32),
    }


def user_features(
    users: Integers, items: Integers, times: Integers, arrivals: Integers, position: Integers, price: Floats
) -> dict[str, npt.NDArray[np.generic]]:
    """Return what a user's earlier lists and clicks say about a row; a click counts once it has arrived.

    Args:
        users: Code of the user, (N,).
        items: Code of the hotel, (N,).
        times: When the row was shown, (N,) µs.
        arrivals: When its click arrived, (N,) µs; -1 for rows without a click.
        position: Place in the list, (N,).
        price: Price, (N,).

    Returns:
        `shown_before` and `clicked_before` (this hotel, to and by this user); `has_clicked` (any hotel); of the last
        click that has arrived: `last_position`, `price_step` (ln(1 + price) minus that of the clicked hotel, at most 2
        either way) and `price_distance` (its absolute value); 0 where there was no click.
    """
    _, pairs = np.unique(users * (items.max(initial=0) + 1) + items, return_inverse=True)
    clicked = np.flatnonzero(arrivals >= 0)
    first_shown = _first(pairs, times)
    first_click = _first(pairs[clicked], arrivals[clicked], pairs.max(initial=-1) + 1)
    logs = np.log1p(price.astype(np.float64))
    last = last_before(users[clicked], arrivals[clicked], users, times)
    known = last >= 0
    origin = clicked[np.where(known, last, 0)] if len(clicked) else np.zeros(len(users), dtype=np.int64)
    step = np.where(known, np.clip(logs - logs[origin], -2.0, 2.0), 0.0).astype(np.float32)
    return {
        "shown_before": (first_shown[pairs] < times).astype(np.float32),
        "clicked_before": (first_click[pairs] < times).astype(np.float32),
        "has_clicked": known.astype(np.float32),
        "last_position": np.where(known, position[origin], 0).astype(np.float32),
        "price_step": step,
        "price_distance": np.abs(step),
    }


def touch_features(
    groups: Integers, items: Integers, steps: Integers, seen: tuple[Integers, Integers, Integers]
) -> dict[str, Floats]:
    """Return how a session's earlier interactions (images, ratings, information, searches) touched a row's hotel.

    Args:
        groups: Session of every row, (N,).
        items: Hotel of every row, (N,).
        steps: Step of the list within the session, (N,).
        seen: The same three of every interaction, in any order.

    Returns:
        `touched`: how often this hotel before this step; `touched_last`: whether it was the last one touched.
    """
    pairs = np.concatenate([groups, seen[0]]) * (max(items.max(initial=0), seen[1].max(initial=0)) + 1)
    pairs = np.unique(pairs + np.concatenate([items, seen[1]]), return_inverse=True)[1]
    rows, touches = pairs[: len(groups)], pairs[len(groups) :]
    span = max(steps.max(initial=0), seen[2].max(initial=0)) + 2
    marks = np.sort(touches * span + seen[2])
    count = np.searchsorted(marks, rows * span + steps) - np.searchsorted(marks, rows * span)
    last = last_before(seen[0], seen[2], groups, steps)
    hotel = seen[1][np.maximum(last, 0)] if len(seen[1]) else np.full(len(groups), -1)
    return {"touched": count.astype(np.float32), "touched_last": ((last >= 0) & (hotel == items)).astype(np.float32)}


def last_before(owners: Integers, moments: Integers, askers: Integers, nows: Integers) -> Integers:
    """Return for every asker the place of the latest event of the same owner strictly before now, or -1.

    Shapes: owners, moments (M,) events; askers, nows (N,); returns (N,) places among the events.
    Cost: O((M + N) log M).
    """
    if not len(owners):
        return np.full(len(askers), -1, dtype=np.int64)
    begin = min(moments.min(), nows.min(initial=moments.min()))
    span = max(moments.max(), nows.max(initial=moments.max())) - begin + 2
    order = np.lexsort((moments, owners))
    marks = owners[order] * span + (moments[order] - begin)
    place = np.searchsorted(marks, askers * span + (nows - begin)) - 1
    found = order[np.maximum(place, 0)]
    return np.where((place >= 0) & (owners[found] == askers), found, -1)


def _first(groups: Integers, times: Integers, count: int | None = None) -> Integers:
    """Return the earliest time of each group; the largest integer for groups without one."""
    size = int(groups.max(initial=-1)) + 1 if count is None else count
    first = np.full(size, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(first, groups, times)
    return first
