"""Every model family on every data format, in one line: `headrace run headrace.ranking.recipes:criteo model=DCNv2`.

`dim` is the width of a table row: families with a first-order term take its first column for that; for FFM it is the
width of one of its factors. `hidden` has the widths of the deep part, `scaling` says what becomes of the rates with
batches of another size. Prepared data are kept in the cache (or in `folder`) and found again. Families that read
histories have their recipes in `headrace.ranking.history_recipes`.
"""

from __future__ import annotations

from pathlib import Path

from headrace.data.datasets import avazu as avazu_data
from headrace.data.datasets import criteo as criteo_data
from headrace.data.datasets import frappe as frappe_data
from headrace.data.datasets import ipinyou as ipinyou_data
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets import movielens_tag as tag_data
from headrace.data.datasets import trivago as trivago_data
from headrace.nn import DeepFM
from headrace.online.config import ModelFamily
from headrace.optim.scaling import Rule
from headrace.ranking.config import FitConfig
from headrace.ranking.network import Network
from headrace.ranking.prepared import AT_RANDOM, IN_ORDER
from headrace.ranking.steps import BASE_ROWS, HIDDEN, Steps, ranker


def criteo(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 2, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Criteo's display advertisements: 26 categories, 13 numbers in bins; split at random, as the field does."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.25)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = criteo_data.examples(rows=rows), criteo_data.preparation(min_count=min_count)
    return ranker("criteo", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)


def avazu(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 2, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Avazu's mobile advertisements: categories and the hour; split at random, as the field does."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.17)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = avazu_data.examples(rows=rows), avazu_data.preparation(min_count=min_count)
    return ranker("avazu", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)


def movielens_tag(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 1, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Which tag a user gives to a movie: three ids, one positive to two drawn negatives."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.33)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = tag_data.examples(rows=rows), tag_data.preparation(min_count=min_count)
    return ranker("movielens_tag", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)


def movielens(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 1, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """MovieLens ratings of any edition, with what is known of user and movie; 3.5 or more counts as a click."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.55)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = movielens_data.examples(rows=rows), movielens_data.preparation(min_count=min_count)
    return ranker("movielens", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)


def trivago(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 2, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Hotels shown and clicked, in order of time: the last tenth is the test."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.05)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = trivago_data.examples(rows=rows), trivago_data.preparation(min_count=min_count)
    return ranker("trivago", examples, plan, IN_ORDER, network, steps, dim=dim, folder=folder)


def frappe(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 1, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Which application a user starts in which situation: ten ids, one positive to two drawn negatives."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.33)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = frappe_data.examples(rows=rows), frappe_data.preparation(min_count=min_count)
    return ranker("frappe", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)


def ipinyou(
    *, model: ModelFamily = DeepFM, dim: int = 11, hidden: tuple[int, ...] = HIDDEN, dropout: float = 0.0,
    lr: float = 1e-3, table_lr: float | None = None, l2: float = 0.0, batch_rows: int = BASE_ROWS,
    scaling: Rule = "none", epochs: int = 2, min_count: int = 2, rows: int | None = None,
    folder: Path | None = None, seed: int = 0,
) -> FitConfig:  # fmt: skip
    """Bids for display advertisements; clicks are rare (about one in a thousand)."""
    network = Network(family=model, hidden=hidden, dropout=dropout, prior=0.001)
    steps = Steps(lr=lr, table_lr=table_lr, l2=l2, batch_rows=batch_rows, scaling=scaling, epochs=epochs, seed=seed)
    examples, plan = ipinyou_data.examples(rows=rows), ipinyou_data.preparation(min_count=min_count)
    return ranker("ipinyou", examples, plan, AT_RANDOM, network, steps, dim=dim, folder=folder)
