"""trivago, RecSys Challenge 2019: lists of hotels and the one that was clicked, in order of time.

Two layouts are read: the official session file (`train.csv`), from which the click-out lists are taken apart, and a
table with one row per shown hotel. The log gives one time per list and only lists with a click, so click delays are
drawn (`ClickDelay`), the shown hotels were chosen by trivago, and position is a feature for training that is served
at a fixed reference value.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import (
    ClickDelay,
    Integers,
    RecordedLog,
    codes,
    find_in,
    first_line,
    in_order,
    missing,
    numbers,
    read_table,
    request_events,
    text,
)
from headrace.data.datasets.trivago_history import list_features, touch_features, user_features
from headrace.data.examples import Examples
from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Category, Number, Preparation
from headrace.errors import DataError
from headrace.types import Events

NAMES = (
    "trivago_clickout_impressions_ctr.csv", "trivagoRecSysChallengeDataset2019/train.csv", "trivago/train.csv",
    "trivago_sessions_100k.csv",
)  # fmt: skip
ADDRESS = "https://recsys.trivago.cloud/challenge/dataset/ (RecSys Challenge 2019, research use)"
POSITION = "position"
"""Feature that is served at a reference value."""

STRINGS = ("user_id", "session_id", "platform", "city", "device")
ENTITIES = ("user_id", "platform", "city", "device")
DENSE = ("price_share", "price_over_mean", "shown_before", "clicked_before", "has_clicked", "price_step",
         "price_distance")  # fmt: skip
TOUCHES = ("touched", "touched_last")


def find() -> Path | None:
    """Return the log's file in the data folder or the cache, or None."""
    return find_in(NAMES)


def schema(dim: int = 9, *, sessions: bool = False) -> Schema:
    """Return the features that a DeepFM needs to beat position alone.

    Args:
        dim: Width of the tables.
        sessions: Also how the session touched the hotel before; for logs read from the session file.
    """
    ids = [IdFeature(name, dim, accepts="string") for name in ("user_id", "item", "city", "platform", "device")]
    ranks = [IdFeature(POSITION, dim, accepts="integer", serve_as=1), IdFeature("price_rank", dim, accepts="integer")]
    logs = [DenseFeature(name, transform="log1p") for name in ("price", "list_length", "last_position")]
    place = DenseFeature("position_log", column=POSITION, transform="log1p", serve_as=1.0)
    touches = [DenseFeature("touched", transform="log1p"), DenseFeature("touched_last")] if sessions else []
    return Schema(features=(*ids, *ranks, *logs, place, *(DenseFeature(name) for name in DENSE), *touches))


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a table with one row per shown hotel, in its order (that of time).

    Nothing is worked out from earlier rows; for rows with what a user saw and clicked before take `load().examples()`.

    Raises:
        DataError: If there is no file, or it is the session file, whose lists `load` takes apart.
    """
    found = path or find_in(NAMES[:1])
    if found is None:
        raise missing("trivago", NAMES[:1], ADDRESS)
    if "click," not in first_line(found):
        raise DataError(f"File {found}", got="no column 'click'", expected="a table with one row per shown hotel",
                        do="Read session files with `load`.")  # fmt: skip
    types = {"click": "float32", "price": "float32", "n_impressions": "float32", "timestamp": "int64"}
    layout = Layout(format="csv", types=types, rename={"click": "label", "item_id": "item"})
    return Examples(name="trivago", paths=(found,), layout=layout, rows=rows)


def preparation(*, min_count: int = 2) -> Preparation:
    """Return user, hotel, place and context as categories, price and length of the list as numbers.

    Args:
        min_count: Rarer values share one id.
    """
    ids = (Category(name, min_count=min_count) for name in ("user_id", "item", "city", "platform", "device"))
    numbers = (Number(name, log1p=True, scale="standard") for name in ("price", "n_impressions"))
    return Preparation(columns=(*ids, Category(POSITION, serve_as=1), *numbers), keep=("timestamp",))


def load(
    path: Path | None = None, *, seed: int = 0, median_delay_s: float = 60.0, sigma: float = 1.0,
    longest_delay_s: float = 1800.0, rows: int | None = None,
) -> RecordedLog:  # fmt: skip
    """Read the log and work out its features.

    Args:
        path: The file; None: as `find` finds it.
        seed: Of the click delays, see `ClickDelay`. A user's features know a click only once it has arrived.
        median_delay_s: Half of the clicks arrive sooner.
        sigma: Spread of the delays.
        longest_delay_s: Longer ones are cut to this.
        rows: Only the first so many rows of the file.

    Raises:
        DataError: If the file is missing (with the names looked for and the official address) or malformed.
    """
    found = path or find()
    if found is None:
        raise missing("trivago", NAMES, ADDRESS)
    delay = ClickDelay(median_s=median_delay_s, sigma=sigma, longest_s=longest_delay_s, seed=seed)
    shown, variant = _shown(found, rows)
    table = _with_features(in_order(shown), delay)
    clicks = int(pc.sum(table["clicked"]).as_py() or 0)
    notes = (
        f"{table.num_rows} shown hotels in {int(_lists(table)[-1]) + 1} lists, {clicks / table.num_rows:.2%} clicked",
        "the log has one time per list and only lists with a click", delay.told(),
        "logged candidates are scored, not chosen", f"{POSITION} is learned from and served at the reference value 1",
    )  # fmt: skip
    return RecordedLog(
        name="trivago", variant=variant, path=found, table=table, events=impressions, delay=delay, notes=notes
    )


def impressions(part: pa.Table) -> Events:
    """Return rows of a loaded table as impressions; the key is session/step/second."""
    features = {name: text(part[name]) for name in ENTITIES}
    for name in (POSITION, "price_rank"):
        features[name] = numbers(part[name], pa.int64())
    for name in ("price", "list_length", "last_position", *DENSE, *TOUCHES):
        if name in part.column_names:
            features[name] = numbers(part[name], pa.float32())
    return request_events(_keys(part), numbers(part["time"], pa.int64()), text(part["item"]), features)


def _keys(part: pa.Table) -> pa.Array:
    seconds = pc.divide(numbers(part["time"], pa.int64()), 1_000_000)
    return pc.binary_join_element_wise(text(part["session_id"]), text(part["step"]), seconds.cast(pa.string()), "/")


def _shown(path: Path, rows: int | None) -> tuple[pa.Table, str]:
    """Return one row per shown hotel: who, when (µs), where in the list, what, for how much, clicked or not."""
    whole = {"timestamp": "int64", "step": "int64"}
    raw = read_table(path, Layout(), encode=(*STRINGS, "action_type"), rows=rows)
    if {"impressions", "reference", "action_type"} <= set(raw.column_names):
        return _from_sessions(_cast(raw, whole, path)), "sessions"
    if "click" not in raw.column_names:
        raise DataError(f"File {path}", got=f"columns {raw.column_names}", do=f"Get it from {ADDRESS}",
                        expected="trivago's session file, or a table with click, item_id, position, price")  # fmt: skip
    raw = _cast(raw, {**whole, "click": "int64", "position": "int64", "price": "float32", "item_id": "int64"}, path)
    columns = {name: raw[name] for name in (*STRINGS, "step", "position", "price")}
    times = pc.multiply(raw["timestamp"], 1_000_000)
    clicked = pc.equal(raw["click"], 1)
    return pa.table({**columns, "item": raw["item_id"], "time": times, "clicked": clicked}), "impressions"


def _cast(table: pa.Table, types: dict[str, str], path: Path) -> pa.Table:
    """Give columns their types; the layout is known only once the header was read."""
    for name, kind in types.items():
        if name not in table.column_names:
            raise DataError(f"File {path}", got=f"columns {table.column_names}", expected=f"a column {name!r}",
                            do=f"Get it from {ADDRESS}")  # fmt: skip
        try:
            column = table[name].cast(pa.type_for_alias(kind))
        except pa.ArrowInvalid as error:
            raise DataError(f"File {path}, column '{name}'", got=str(error), expected=kind) from error
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _from_sessions(raw: pa.Table) -> pa.Table:
    """Take the click-out lists of the official session file apart, and count what was touched before."""
    outs = raw.filter(pc.and_(pc.equal(raw["action_type"].cast(pa.string()), "clickout item"),
                              pc.is_valid(raw["impressions"])))  # fmt: skip
    shown, prices = (pc.split_pattern(outs[name].combine_chunks(), "|") for name in ("impressions", "prices"))
    lengths = np.asarray(pc.list_value_length(shown).to_numpy(zero_copy_only=False), dtype=np.int64)
    parents = np.repeat(np.arange(outs.num_rows), lengths)
    items = shown.flatten()
    taken = outs.take(pa.array(parents))
    starts = np.cumsum(lengths) - lengths
    columns = {name: taken[name] for name in (*STRINGS, "step")}
    columns |= {
        "position": pa.array(np.arange(len(parents)) - starts[parents] + 1),
        "price": prices.flatten().cast(pa.float32()), "item": items.cast(pa.int64()),
        "time": pc.multiply(taken["timestamp"], 1_000_000), "clicked": pc.equal(items, taken["reference"]),
    }  # fmt: skip
    return pa.table({**columns, **_touches(raw, taken, columns["item"])})


def _touches(raw: pa.Table, taken: pa.Table, items: pa.Array) -> dict[str, pa.Array]:
    """Click-outs do not count as touches: they are known as clicks, once they have arrived."""
    kinds = raw["action_type"].cast(pa.string())
    about = pc.or_(pc.match_substring(kinds, "interaction item"), pc.equal(kinds, "search for item"))
    named = pc.fill_null(pc.match_substring_regex(raw["reference"], r"^\d{1,18}$"), False)
    seen = raw.filter(pc.and_(about, named))
    sessions = codes(pa.chunked_array([*taken["session_id"].chunks, *seen["session_id"].chunks]))
    steps, hotels = (np.asarray(column.to_numpy(), dtype=np.int64) for column in
                     (seen["step"], seen["reference"].cast(pa.int64())))  # fmt: skip
    rows = taken.num_rows
    found = touch_features(
        sessions[:rows], np.asarray(items.to_numpy(), dtype=np.int64), np.asarray(taken["step"].to_numpy(), np.int64),
        (sessions[rows:], hotels, steps),
    )  # fmt: skip
    return {name: pa.array(values) for name, values in found.items()}


def _lists(table: pa.Table) -> Integers:
    """Return the number of the list of every row; rows of a list stand together."""
    marks = [codes(table["session_id"]), table["step"].to_numpy(), table["time"].to_numpy()]
    begins = np.zeros(table.num_rows, dtype=np.bool_)
    for mark in marks:
        begins[1:] |= mark[1:] != mark[:-1]
    return np.cumsum(begins, dtype=np.int64)


def _with_features(table: pa.Table, delay: ClickDelay) -> pa.Table:
    times, price = table["time"].to_numpy(), table["price"].to_numpy()
    clicked = table["clicked"].to_numpy()
    arrivals = np.full(table.num_rows, -1, dtype=np.int64)
    arrivals[clicked] = times[clicked] + delay.draw(_keys(table.filter(table["clicked"])))
    features = list_features(_lists(table), price) | user_features(
        codes(table["user_id"]), codes(table["item"]), times, arrivals, table["position"].to_numpy(), price
    )
    for name, values in features.items():
        table = table.append_column(name, pa.array(values))
    return table
