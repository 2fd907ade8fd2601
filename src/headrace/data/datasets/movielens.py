"""MovieLens: ratings in the order in which they were given; a high rating counts as a click.

Editions: 100K (`u.data`, or the atomic file `ml100k.inter`), latest-small and 25M (`ratings.csv`), 1M (`ratings.dat`,
or a copy without times). Where no file is found, the official archive is downloaded into the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from headrace.config import known_name
from headrace.data.datasets.recorded import (
    ClickDelay,
    RecordedLog,
    codes,
    earlier,
    find_in,
    in_order,
    missing,
    numbers,
    read_table,
    request_events,
    text,
)
from headrace.data.datasets.side_columns import InTurn, SideColumns
from headrace.data.download import Archive, cache_folder, checked_against, download, extract
from headrace.data.examples import Examples
from headrace.data.features import DenseFeature, IdFeature, Schema
from headrace.data.files import find_file
from headrace.data.hashing import cross_ids, hash_text
from headrace.data.layout import Derive, Layout
from headrace.data.prepare_columns import Categories, Category, Preparation
from headrace.types import Events

OFFICIAL = "https://files.grouplens.org/datasets/movielens"
COUNTS = ("user_ratings", "item_ratings")
ROW_S = 1
"""Made-up distance of ratings without a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """One edition: the names of its ratings file, and the official archive with the file in it."""

    names: tuple[str, ...]
    archive: Archive
    member: str


EDITIONS = {
    "100k": Edition(
        names=("ml-100k/u.data", "u.data", "ml100k.inter", "ml-100k/ml-100k.inter"), member="ml-100k/u.data",
        archive=Archive(url=f"{OFFICIAL}/ml-100k.zip", md5="0e33842e24a9c977be4e0107933c0723"),
    ),
    "latest-small": Edition(
        names=("ml-latest-small/ratings.csv", "ml_latest_small_ratings.csv"), member="ml-latest-small/ratings.csv",
        archive=Archive(url=f"{OFFICIAL}/ml-latest-small.zip"),  # no checksum is published, and it changes at times
    ),
    "1m": Edition(
        names=("ml-1m/ratings.dat", "ratings.dat", "ml1m_ratings_5fold.csv"), member="ml-1m/ratings.dat",
        archive=Archive(url=f"{OFFICIAL}/ml-1m.zip", md5="c4d9eecfca2ab87c1945afe126590906"),
    ),
    "25m": Edition(
        names=("ml-25m/ratings.csv", "ml_25m_ratings.csv"), member="ml-25m/ratings.csv",
        archive=Archive(url=f"{OFFICIAL}/ml-25m.zip", md5="6b51fb2759a8657d3bfcbfc42b592ada"),
    ),
}  # fmt: skip
"""By name; `auto` takes the first whose file is there."""


USER_COLUMNS = ("gender", "age", "occupation", "zip_code")
SIDES: dict[str, tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...]] = {
    "1m": (
        ("user", ("users.dat", "ml1m_users.dat"), "::", ("id", *USER_COLUMNS)),
        ("movie", ("ml1m_movies_extrainfos.dat",), "::",
         ("id", "title", "year", "rated", "released", "genres", "directors", "writers", "actors", "plot")),
        ("movie", ("movies.dat",), "::", ("id", "title", "genres")),
    ),
    "100k": (
        ("user", ("u.user",), "|", ("id", "age", "gender", "occupation", "zip_code")),
        ("user", ("ml100k.user",), "\t", ()),
        ("movie", ("ml100k.item",), "\t", ()),
    ),
    "latest-small": (("movie", ("movies.csv", "ml_latest_small_movies.csv"), "", ()),),
    "25m": (("movie", ("movies.csv", "ml_25m_movies.csv"), "", ()),),
}  # fmt: skip
"""Files beside the ratings: what they are about, names, delimiter, and columns where they have no header."""

ATOMIC = {
    "user_id:token": "id", "age:token": "age", "gender:token": "gender", "occupation:token": "occupation",
    "zip_code:token": "zip_code", "item_id:token": "id", "release_year:token": "year", "class:token_seq": "genres",
    "movieId": "id",
}  # fmt: skip
"""What columns of files with a header are called here."""


def find(variant: str = "auto") -> Path | None:
    """Return the ratings file of an edition in the data folder or the cache, or None."""
    editions = (
        EDITIONS if variant == "auto" else {known_name("MovieLens, variant", variant, EDITIONS): EDITIONS[variant]}
    )
    return find_in([name for edition in editions.values() for name in edition.names])


def schema(dim: int = 9) -> Schema:
    """Return users and movies, and how many ratings each had before (0 where rows do not say)."""
    ids = (IdFeature("user_id", dim, accepts="string"), IdFeature("item", dim, accepts="string"))
    counts = (DenseFeature(name, transform="log1p", optional=True) for name in COUNTS)
    return Schema(features=(*ids, *counts))


def load(
    path: Path | None = None, *, variant: str = "auto", may_download: bool = True, positive_from: float = 3.5,
    seed: int = 0, median_delay_s: float = 5.0, rows: int | None = None,
) -> RecordedLog:  # fmt: skip
    """Read the ratings of an edition, downloading it when no file is found.

    Args:
        path: The ratings file; None: as `find` finds it.
        variant: `auto`, or the name of an edition.
        may_download: Fetch the official archive (of the 100K edition for `auto`) when no file is found.
        positive_from: Least rating that counts as a click.
        seed: Of the click delays, and of the order where the file has no times.
        median_delay_s: Half of the clicks arrive sooner; all within twelve times this.
        rows: Only the first so many rows of the file.

    Raises:
        ConfigError: If there is no such edition.
        DataError: If there is no file and it cannot be downloaded, or a file is malformed.
    """
    known_name("MovieLens, variant", variant, ["auto", *EDITIONS])
    found = path or find(variant)
    if found is None:
        if not may_download:
            edition = EDITIONS["100k" if variant == "auto" else variant]
            raise missing(f"MovieLens {variant}", edition.names, edition.archive.url)
        found = fetch("100k" if variant == "auto" else variant)
    notes = _origin(found)
    read = layout(found)
    table = _columns(read_table(found, read, encode=read.key, rows=rows), read, seed)
    clicked = pc.greater_equal(table["rating"], positive_from)
    table = table.append_column("clicked", clicked)
    for name, column in (("user_ratings", "user_id"), ("item_ratings", "item")):
        table = table.append_column(name, pa.array(earlier(codes(table[column]))))
    delay = ClickDelay(median_s=median_delay_s, longest_s=12 * median_delay_s, seed=seed)
    notes += [f"{table.num_rows} ratings, {pc.mean(clicked).as_py():.2%} of them {positive_from:g} or more (a click)",
              delay.told()]  # fmt: skip
    if read.time is None:
        notes.append(f"the file has no times: its rows are shuffled (seed {seed}) and put {ROW_S} s apart")
    return RecordedLog(
        name="movielens", variant=_variant(found), path=found, table=table, events=impressions, delay=delay,
        notes=tuple(notes),
    )  # fmt: skip


def examples(path: Path | None = None, *, positive_from: float = 3.5, rows: int | None = None) -> Examples:
    """Return the ratings of a file in its order as labelled rows, with what is known of user and movie beside them.

    Nothing is downloaded; see `fetch`. A file of users or movies that is not there leaves its columns null.

    Args:
        path: The ratings file of any edition; None: as `find` finds it.
        positive_from: Least rating whose label is 1.
        rows: Only the first so many.

    Raises:
        DataError: If there is no file.
    """
    found = path or find()
    if found is None:
        raise missing("MovieLens", [name for edition in EDITIONS.values() for name in edition.names], OFFICIAL)
    read = layout(found, positive_from=positive_from)
    user, item, rating = read.key[0], read.key[1], next(iter(read.types))
    steps: list[Derive] = [Labelled(rating, positive_from)]
    columns = _side_columns(_variant(found))
    for about, key in (("user", user), ("movie", item)):
        wanted = [name for name in columns if (name in USER_COLUMNS) == (about == "user")]
        if wanted:
            steps.append(SideColumns(key, _side_table(found, about, wanted)))
    kept = (*read.keep[:3], "label", *columns) if read.keep else None
    extra = ("fold",) if "5fold" in found.name else tuple(filter(None, [read.time]))
    times = {read.time: "timestamp"} if read.time else {}
    whole = replace(read, derive=InTurn(steps), keep=(*kept, *extra) if kept else None, rename={**read.rename, **times})
    return Examples(name="movielens", paths=(found,), layout=whole, rows=rows)


def preparation(*, variant: str = "auto", min_count: int = 1) -> Preparation:
    """Return user, movie and what an edition knows of them as categories; genres as a list of them.

    Args:
        variant: Name of an edition; `auto`: that of the file that `find` finds.
        min_count: Rarer values share one id.
    """
    known_name("MovieLens, variant", variant, ["auto", *EDITIONS])
    found = find() if variant == "auto" else None
    columns = _side_columns(variant if found is None else _variant(found))
    single = ("user_id", "item", *(name for name in columns if name != "genres"))
    genres = [Categories("genres", min_count=min_count)] if "genres" in columns else []
    return Preparation(columns=(*(Category(name, min_count=min_count) for name in single), *genres))


def _side_columns(variant: str) -> tuple[str, ...]:
    """Return the columns about users and movies that examples of an edition have."""
    users = USER_COLUMNS if variant in ("1m", "100k") else ()
    years = ("year",) if variant in ("1m", "100k") else ()
    return (*users, *years, "genres") if variant in SIDES else ()


def _side_table(path: Path, about: str, wanted: Sequence[str]) -> pa.Table:
    """Read the file about users or movies that lies beside a ratings file; one without rows where there is none."""
    for kind, names, delimiter, columns in SIDES.get(_variant(path), ()):
        side = find_file([path.parent], names) if kind == about else None
        if side is None:
            continue
        table = (
            _parted(side, columns)
            if delimiter == "::"
            else read_table(side, Layout(format="csv", names=columns, delimiter=delimiter, quote=not delimiter))
        )
        table = table.rename_columns([ATOMIC.get(name, name) for name in table.column_names])
        if "genres" in table.column_names:
            parted = pc.replace_substring_regex(table["genres"], r", |\|" if "::" in delimiter else r" ", "|")
            at = table.column_names.index("genres")
            table = table.set_column(at, "genres", parted if delimiter else table["genres"])
        empty = pa.nulls(table.num_rows, pa.string())
        return pa.table({"id": table["id"], **{name: table[name] if name in table.column_names else empty
                                               for name in wanted}})  # fmt: skip
    return pa.table({name: pa.array([], pa.string()) for name in ("id", *wanted)})


def _parted(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read rows with `::` between their values; what is beyond the last column belongs to it (a plot may have `::`)."""
    encoding = "latin-1" if path.name.startswith("movies.dat") else "utf-8"
    whole = Layout(format="csv", names=("row",), delimiter="\x1e", quote=False, encoding=encoding)
    parts = pc.split_pattern(read_table(path, whole)["row"].combine_chunks(), "::", max_splits=len(columns) - 1)
    return pa.table({name: pc.list_element(parts, at) for at, name in enumerate(columns)})


def fetch(variant: str, folder: Path | None = None) -> Path:
    """Download an edition into the cache, unpack its ratings, and return their file.

    Raises:
        ConfigError: If there is no such edition.
        DataError: See `headrace.data.download`.
    """
    edition, cache = EDITIONS[known_name("MovieLens, variant", variant, EDITIONS)], folder or cache_folder()
    target = cache / edition.member
    if not target.exists():
        extract(download(edition.archive, cache).path, [edition.member], target.parent)
    return target


def _origin(path: Path) -> list[str]:
    """Say of a file in the cache where it came from and what its archive was checked against."""
    for edition in EDITIONS.values():
        if path == cache_folder() / edition.member and checked_against(edition.archive):
            return [f"downloaded from {edition.archive.url}: {checked_against(edition.archive)}"]
    return []


def layout(path: Path, *, positive_from: float = 3.5) -> Layout:
    """Return how a ratings file is read, by its name; with it `FileSource` replays one as labelled examples.

    Args:
        path: The ratings file of any edition.
        positive_from: Least rating whose label is 1.
    """
    names: tuple[str, ...] = ()
    delimiter, time = "", "timestamp"
    if path.name.startswith(("u.data", "ratings.dat")):
        names = ("user_id", "item", "rating", "timestamp")
        user, item, rating = names[:3]
        delimiter = "::" if path.name.startswith("ratings.dat") else "\t"
    elif ".inter" in path.suffixes:
        user, item, rating, time = "user_id:token", "item_id:token", "rating:float", "timestamp:float"
        delimiter = "\t"
    elif "5fold" in path.name:
        user, item, rating, time = "user_id", "movie_id", "rating", ""
    else:
        user, item, rating = "userId", "movieId", "rating"
    types = {rating: "float32", **({time: "int64"} if time else {})}
    return Layout(
        format="csv", names=names, delimiter=delimiter, quote=not delimiter, types=types, time=time or None,
        time_unit="s", key=(user, item), kind="example", rename={user: "user_id", item: "item", rating: "rating"},
        keep=(user, item, rating, "label"), derive=Labelled(rating, positive_from),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Labelled:
    """Adds the label to rows of ratings."""

    rating: str
    positive_from: float

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows with a column `label`: 1 where the rating is high enough."""
        label = pc.greater_equal(batch[self.rating], self.positive_from).cast(pa.float32())
        return batch.append_column("label", label)


def impressions(part: pa.Table) -> Events:
    """Return rows of a loaded table as impressions; the key is user/movie."""
    users, items = text(part["user_id"]), text(part["item"])
    features = {"user_id": users} | {name: numbers(part[name], pa.float32()) for name in COUNTS}
    keys = pc.binary_join_element_wise(users, items, "/")
    return request_events(keys, numbers(part["time"], pa.int64()), items, features)


def _columns(raw: pa.Table, read: Layout, seed: int) -> pa.Table:
    """Return user, movie, rating and time in order of time; without times, shuffled by a hash of user and movie."""
    targets = {**read.rename, read.time or "": "time"}
    table = raw.rename_columns([targets.get(name, name) for name in raw.column_names])
    table = table.select(["user_id", "item", "rating", *(["time"] if read.time else [])])
    if read.time:
        seconds = pc.multiply(table["time"], 1_000_000)
        return in_order(table.set_column(table.column_names.index("time"), "time", seconds))
    marks = [codes(table[name]) for name in ("user_id", "item")]
    order = np.argsort(cross_ids([np.full(len(marks[0]), hash_text(f"order {seed}")), *marks]), kind="stable")
    times = np.arange(table.num_rows, dtype=np.int64) * ROW_S * 1_000_000
    return table.take(pa.array(order)).append_column("time", pa.array(times))


def _variant(path: Path) -> str:
    for name, edition in EDITIONS.items():
        for known in edition.names:
            if path.as_posix().removesuffix(".gz").removesuffix(".zst").endswith(known):
                return name
    return "ratings"
