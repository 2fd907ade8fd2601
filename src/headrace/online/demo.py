"""The recipes of the demo, and of many first tries: a real click log, ratings, or the simulated world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from headrace.data import JoinConfig, Schema
from headrace.data.datasets import movielens as movielens_data
from headrace.data.datasets import trivago as trivago_data
from headrace.errors import DataError
from headrace.feedback import WorldConfig
from headrace.nn import DeepFM
from headrace.online.config import OnlineConfig, TableSettings
from headrace.online.recording import Recording
from headrace.online.worlds import POSITION, BestAuc, WorldPlayer, world_log, world_schema
from headrace.publish import GuardConfig
from headrace.store import Adagrad, AdmitAll, AdmitCount, Uniform

DATA = Literal["auto", "trivago", "movielens", "world"]
HERE = "headrace.online.demo"
CLICK_RATE = 0.05
"""What a model believes before it has learned anything: about one in twenty shown items is clicked."""
WITHOUT_POSITION = (
    "without position, scores leave out all that the shown order knew, so on a log of shown orders their AUC is low "
    "by construction; a model that never sees the position learns it by proxy"
)
LATENESS_S = 120.0
DAY_S = 86_400.0


@dataclass(frozen=True)
class DeepFMBuilder:
    """Builds DeepFM over all features of a schema."""

    hidden: tuple[int, ...] = (64, 32)
    prior: float = 0.5

    def __call__(self, embed: nn.Module, schema: Schema, seed: int) -> nn.Module:
        """Return the network."""
        dim = schema.id_features[0].dim
        return DeepFM(embed, schema.id_names, len(schema.dense_names), self.hidden, dim=dim, seed=seed,
                      prior=self.prior)  # fmt: skip


def trivago(
    *, dim: int = 9, lr: float = 0.05, dense_lr: float = 1e-3, batch_rows: int = 256, publish_every: int = 1024,
    window_s: float = 1800.0, median_delay_s: float = 60.0, admit: int = 1, ttl_days: float = 30.0,
    negative_rate: float = 1.0, repeat: bool = False, audit: bool = False, seed: int = 0,
) -> OnlineConfig:  # fmt: skip
    """Hotel lists and clicks of two days (RecSys Challenge 2019): 312,539 shown items, 4.35 % clicked.

    The log has one time per list and only lists with a click. Click delays are drawn (log-normal, seeded), candidates
    are scored and not chosen, and the position is learned from but served at a reference value.
    """
    log = trivago_data.load(seed=seed, median_delay_s=median_delay_s)
    return OnlineConfig(
        name="trivago", schema=trivago_data.schema(dim), model=DeepFMBuilder(prior=CLICK_RATE), prior=CLICK_RATE,
        player=lambda: Recording(log.source, max_span_s=LATENESS_S, repeat=repeat, span_us=log.span_us),
        span_s=log.span_us / 1e6,
        join=JoinConfig(window_s=window_s, lateness_s=LATENESS_S, negative_rate=negative_rate, seed=seed),
        tables=TableSettings(
            rule=Adagrad(lr=lr), init=Uniform(0.01), ttl_s=ttl_days * 86_400.0,
            admission=AdmitCount(admit) if admit > 1 else AdmitAll(),
        ),
        dense_lr=dense_lr, batch_rows=batch_rows, publish_every=publish_every, metric_window_s=3600.0,
        baselines=True, position=trivago_data.POSITION, audit=audit, seed=seed, data_files=(log.path,),
        notes=(*log.notes, WITHOUT_POSITION),
    )  # fmt: skip


def movielens(
    *, variant: str = "auto", dim: int = 9, lr: float = 0.05, batch_rows: int = 128, publish_every: int = 512,
    repeat: bool = False, audit: bool = False, seed: int = 0,
) -> OnlineConfig:  # fmt: skip
    """MovieLens ratings in the order in which they were given; a rating of 3.5 or more counts as a click."""
    log = movielens_data.load(variant=variant, seed=seed)
    return OnlineConfig(
        name=f"movielens-{log.variant}", schema=movielens_data.schema(dim), model=DeepFMBuilder(),
        player=lambda: Recording(log.source, max_span_s=DAY_S, repeat=repeat, span_us=log.span_us),
        span_s=log.span_us / 1e6, join=JoinConfig(window_s=3600.0, lateness_s=DAY_S, seed=seed),
        tables=TableSettings(rule=Adagrad(lr=lr), init=Uniform(0.01)),
        batch_rows=batch_rows, publish_every=publish_every, metric_window_s=30 * 86_400.0, baselines=True,
        audit=audit, seed=seed, data_files=(log.path,), notes=log.notes,
    )  # fmt: skip


def world(
    *, requests: int = 20_000, candidates: int = 10, log: bool = False, dim: int = 9, lr: float = 0.05,
    batch_rows: int = 256, publish_every: int = 1024, checkpoint_every: int = 20, window_s: float = 900.0,
    admit: int = 1, negative_rate: float = 1.0, repeat: bool = False, audit: bool = False, guard: bool = False,
    seed: int = 0,
) -> OnlineConfig:  # fmt: skip
    """A simulated feed whose truth is known: tastes drift, items are born and die, clicks come late.

    With `log` the world's own logging policy ranks and its written log is played; else the model ranks and the users
    see its order (closed loop). With `guard` every version is judged before it is served.
    """
    config = WorldConfig(seed=seed, requests=requests, candidates=candidates)
    span_s = requests / config.requests_per_s
    schema = world_schema(config, dim)
    ranked = "a logging policy ranked; its log is played" if log else "the model ranks and the users see its order"
    notes = ("everything here is simulated: users, items, clicks and their delays", ranked)
    return OnlineConfig(
        name="world", schema=schema, model=DeepFMBuilder(prior=CLICK_RATE), prior=CLICK_RATE, span_s=span_s,
        player=(lambda: Recording(lambda: world_log(config), max_span_s=LATENESS_S, repeat=repeat,
                                  span_us=round(span_s * 1e6)))
        if log else (lambda: WorldPlayer(config)),
        join=JoinConfig(window_s=window_s, lateness_s=LATENESS_S, negative_rate=negative_rate, seed=seed),
        tables=TableSettings(
            rule=Adagrad(lr=lr), init=Uniform(0.01), ttl_s=7 * 86_400.0,
            admission=AdmitCount(admit) if admit > 1 else AdmitAll(),
        ),
        batch_rows=batch_rows, publish_every=publish_every, checkpoint_every=checkpoint_every, baselines=True,
        metric_window_s=300.0, position=POSITION, audit=audit, seed=seed, notes=notes, best_auc=BestAuc(config),
        guard=GuardConfig() if guard else None,
    )  # fmt: skip


def choose(data: DATA, *, forever: bool = False) -> tuple[str, list[str], str]:
    """Return (recipe, settings, a sentence that says why) for `headrace demo --data`.

    `auto` takes the trivago log if the data folder has it, else MovieLens from there or by download, else the world.

    Raises:
        DataError: If a data set was asked for by name and is not there.
    """
    repeat = ["repeat=true"] if forever else []
    if data in ("auto", "trivago"):
        found = trivago_data.find()
        if found is not None or data == "trivago":
            return f"{HERE}:trivago", repeat, f"Playing the trivago click log ({found or 'missing'})."
    if data in ("auto", "movielens"):
        try:
            log = movielens_data.load()
            return f"{HERE}:movielens", repeat, f"Playing MovieLens ratings ({log.path})."
        except DataError as error:
            if data == "movielens":
                raise
            reason = str(error)
    else:
        reason = "asked for"
    endless = ["requests=100000000"] if forever else []
    return f"{HERE}:world", endless, f"Playing the simulated world, not a real log ({reason})."
