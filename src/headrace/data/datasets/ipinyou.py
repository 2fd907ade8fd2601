"""iPinYou real-time bidding: advertisements that won an auction, clicked or not.

Two forms are read, both as the public conversion scripts of the competition's logs (make-ipinyou-data) write them:
`train.log.txt`, tab-separated with a header, in order of time, and `*.yzx.txt`: click, winning price and the one-hot
features of a row. Only the first has columns with a meaning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.data.datasets.recorded import find_in, missing
from headrace.data.examples import Examples
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Categories, Category, Preparation

NAMES = ("ipinyou/train.log.txt", "make-ipinyou-data/all/train.log.txt", "ipinyou_train.log.txt",
         "ipinyou/train.yzx.txt")  # fmt: skip
ADDRESS = "https://contest.ipinyou.com (converted by make-ipinyou-data; research use)"
LOG_COLUMNS = (
    "click", "weekday", "hour", "bidid", "timestamp", "logtype", "ipinyouid", "useragent", "IP", "region", "city",
    "adexchange", "domain", "url", "urlid", "slotid", "slotwidth", "slotheight", "slotvisibility", "slotformat",
    "slotprice", "creative", "bidprice", "payprice", "keypage", "advertiser", "usertag",
)  # fmt: skip
PLAIN = (
    "weekday", "hour", "IP", "region", "city", "adexchange", "domain", "slotid", "slotwidth", "slotheight",
    "slotvisibility", "slotformat", "creative", "advertiser",
)  # fmt: skip
DERIVED = ("system", "browser", "price_floor")
SYSTEMS = ("windows", "ios", "mac", "android", "linux")
BROWSERS = ("chrome", "sogou", "maxthon", "safari", "firefox", "theworld", "opera", "ie")
FLOORS = ((100, "101+"), (50, "51-100"), (10, "11-50"), (0, "1-10"))


def find() -> Path | None:
    """Return the file in the data folder or the cache, or None."""
    return find_in(NAMES)


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a file in either form.

    Rows of `train.log.txt` have the log's own columns, `system` and `browser` (from the user agent) and `price_floor`
    (bins of the slot's floor price); the word `null` counts as missing. Those of `*.yzx.txt` have `pay_price` and the
    list `features`.

    Raises:
        DataError: If there is no file (with the names looked for and the address).
    """
    found = path or find()
    if found is None:
        raise missing("iPinYou", NAMES, ADDRESS)
    if ".yzx" in found.name:
        layout = Layout(format="libfm", derive=priced)
    else:
        layout = Layout(format="tsv", types={"click": "float32"}, derive=described, rename={"click": "label"},
                        keep=("click", "timestamp", "payprice", *PLAIN, *DERIVED, "usertag"))  # fmt: skip
    return Examples(name="ipinyou", paths=(found,), layout=layout, rows=rows)


def preparation(*, min_count: int = 1, one_hot: bool = False) -> Preparation:
    """Return the fields of the usual conversion as categories, and the user's tags as a list of them.

    Args:
        min_count: Rarer values share one id.
        one_hot: For files `*.yzx.txt`.
    """
    if one_hot:
        return Preparation(columns=(Categories("features", min_count=min_count, max_length=256),))
    columns = (Category(name, min_count=min_count) for name in (*PLAIN, *DERIVED))
    return Preparation(columns=(*columns, Categories("usertag", min_count=min_count, separator=",")), item="creative")


def described(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows of the log with `system`, `browser` and `price_floor`, and nulls instead of the word."""
    for at, name in enumerate(batch.schema.names):
        if pa.types.is_string(batch.column(at).type):
            column = batch.column(at)
            batch = batch.set_column(at, name, pc.if_else(pc.equal(column, "null"), None, column))
    agents = pc.utf8_lower(batch["useragent"])
    batch = batch.append_column("system", _first_word(agents, SYSTEMS))
    batch = batch.append_column("browser", _first_word(agents, BROWSERS))
    price = pc.cast(batch["slotprice"], pa.float64())
    floor = pc.if_else(pc.is_valid(price), "0", None)
    for above, name in reversed(FLOORS):
        floor = pc.if_else(pc.greater(price, above), name, floor)
    return batch.append_column("price_floor", floor)


def priced(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows of click, price and features (read as label, and ids the first of which is the price)."""
    ids = batch["ids"]
    lengths = np.asarray(pc.list_value_length(ids).to_numpy(zero_copy_only=False), dtype=np.int64)
    flat = np.asarray(ids.flatten().to_numpy())
    first = np.zeros(len(flat), dtype=np.bool_)
    first[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
    price = np.full(len(lengths), np.nan, dtype=np.float32)
    price[lengths > 0] = flat[first]
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.maximum(lengths - 1, 0), dtype=np.int32)])
    features = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat[~first]))
    return pa.RecordBatch.from_arrays([batch["label"], pa.array(price, from_pandas=True), features],
                                      names=["label", "pay_price", "features"])  # fmt: skip


def _first_word(agents: pa.Array, words: tuple[str, ...]) -> pa.Array:
    """Return the first of the words that a user agent contains; "other" without any, null for a null."""
    encoded = agents.dictionary_encode()
    named = pc.if_else(pc.is_valid(encoded.dictionary), "other", None)
    for word in reversed(words):
        named = pc.if_else(pc.match_substring(encoded.dictionary, word), word, named)
    return named.take(encoded.indices)
