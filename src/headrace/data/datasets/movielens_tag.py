"""MovieLens tags: whether a user put a tag on a movie; two drawn negatives for every tag.

Also called MovielensLatest_x1 and ml-tag. Source: the data set of the AFN paper (AAAI 2020), kept by BARS. There are no
times, so it is no event log.
"""

from __future__ import annotations

from pathlib import Path

from headrace.data.datasets.recorded import find_in, missing
from headrace.data.examples import Examples
from headrace.data.layout import Layout
from headrace.data.prepare_columns import Category, Preparation

NAMES = ("MovielensLatest_x1/train.csv", "movielens_tag/train.csv", "movielenslatest_tag_200k.csv")
ADDRESS = "https://huggingface.co/datasets/reczoo/MovielensLatest_x1 (GroupLens, non-commercial)"
FIELDS = ("user_id", "item_id", "tag_id")


def find() -> Path | None:
    """Return the file in the data folder or the cache, or None."""
    return find_in(NAMES)


def examples(path: Path | None = None, *, rows: int | None = None) -> Examples:
    """Return the labelled rows of a file `label,user_id,item_id,tag_id`.

    Raises:
        DataError: If there is no file (with the names looked for and the address).
    """
    found = path or find()
    if found is None:
        raise missing("MovieLens tags", NAMES, ADDRESS)
    layout = Layout(format="csv", types={"label": "float32"})
    return Examples(name="movielens_tag", paths=(found,), layout=layout, rows=rows)


def preparation(*, min_count: int = 1) -> Preparation:
    """Return the three fields as categories."""
    return Preparation(columns=tuple(Category(name, min_count=min_count) for name in FIELDS), item="item_id")
