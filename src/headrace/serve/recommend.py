"""Recommends: finds candidates, ranks them, and chooses what is shown, all from one version."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from headrace.config import require
from headrace.data.collate import collate
from headrace.data.hashing import hash_text
from headrace.errors import HeadraceError
from headrace.nn import LastLayerPosterior
from headrace.serve.catalogue import Catalogue
from headrace.serve.columns import Columns
from headrace.serve.explore import Floats, Greedy, Policy, Slate, Thompson, best_first
from headrace.serve.item_filters import ItemFilters
from headrace.serve.item_vectors import RowReading, as_rows, feature_of
from headrace.serve.metrics import Reading
from headrace.serve.popularity import Popularity
from headrace.serve.predictor import RankPredictor
from headrace.serve.recommend_config import RecommendConfig
from headrace.serve.retrieve import Retriever, View
from headrace.serve.seen import SeenMemory
from headrace.serve.shelf import Ints, Mask, Shelf, item_ids
from headrace.serve.wishes import Wish, fixed_columns, noted
from headrace.types import Events, Version

PLACE, PROPENSITY, POLICY = "place", "propensity", "policy"
NEAR, POPULAR, FRESH = "near", "popular", "new"
ORDERS_S = 1.0
"""How old the order of popular and of new items may be."""


@dataclass(frozen=True, slots=True)
class Recommended:
    """The answer to a wish.

    Attributes:
        rows: What is shown, best place first: impression rows with every column of the model's, `score`, `version`,
            `place` (from 1), `propensity` and `policy`; no rows where nothing is allowed.
        sources: Why each item was a candidate: near to the user, popular, or new.
        version: The version that answered.
        policy: Who chose.
        candidates: How many items were ranked.
        allowed: How many items filters, exclusions and the seen rule left.
        known_user: Whether the model has learned anything of the user.
        error: Largest standard error of a propensity; 0 where they are exact.
    """

    rows: Events | None
    sources: tuple[str, ...]
    version: int
    policy: str
    candidates: int
    allowed: int
    known_user: bool
    error: float = 0.0


class Stage:
    """A served model with both of its stages: who finds candidates, and who ranks them.

    Args:
        predictor: Ranks.
        retriever: Finds; follows the same replica.
        user: Column that names the user.

    Raises:
        ConfigError: If they follow different replicas.
    """

    def __init__(self, predictor: RankPredictor, retriever: Retriever, *, user: str = "user") -> None:
        require(predictor.replica is retriever.replica, "Stage", got="two replicas", expected="one for both stages")
        self.predictor, self.retriever = predictor, retriever
        found = [part for part in predictor.model.modules() if isinstance(part, LastLayerPosterior)]
        self.posterior = found[0] if found else None
        self.feature = feature_of(predictor, user)
        self._reading = None if self.feature is None else RowReading(predictor, [self.feature])

    def knows(self, about: Mapping[str, pa.Array]) -> bool:
        """Return whether the model has a row of the user of a wish; inside a `reading` block."""
        if self._reading is None or self.feature is None:
            return False
        contains = getattr(self.predictor.replica.tables[self._reading.tables[self.feature]], "contains", None)
        ids = self._reading.batch(as_rows(about, 1)).ids[self.feature].values
        return contains is not None and len(ids) > 0 and bool(contains(ids).all())

    def spread(self, requests: Events) -> Floats | None:
        """Return what `Policy.choose` wants to know of uncertainty; inside a `reading` block."""
        if self.posterior is None:
            return None
        prepared = self.predictor.prepared(requests)
        zeros = pa.array(np.zeros(len(requests), np.int64))
        batch = collate(prepared.with_columns({"example_id": zeros}), self.predictor.schema, serving=True)
        with torch.no_grad():
            return np.asarray(self.posterior.spread(self.posterior.features(batch)).numpy(), dtype=np.float64)


@dataclass(slots=True)
class _Orders:
    """Rows of a shelf by popularity and by how seldom they were shown, and when that was found out."""

    generation: int
    made: float
    popular: Ints
    rare: Ints
    shown: Floats = field(default_factory=lambda: np.zeros(0))


class Recommender:
    """Answers wishes: candidates from the catalogue, ranked by the model, chosen by the policy.

    Everything of one answer, retrieval and ranking, comes from one version. The same key gives the same answer as long
    as version, catalogue and memory stay the same: chance is a function of the key and of a secret.

    A user of whom the model knows nothing gets popular items, ranked with the initial row and whatever else the
    request says; an item of which it knows nothing is a candidate by its share of `fresh` ones, and is scored by its
    attributes and its initial row.

    Args:
        stages: Served models by name of their arm; `main` has to be among them.
        catalogue: What may be recommended.
        memory: What users have seen.
        popularity: What many take.
        config: Settings.

    Raises:
        ConfigError: If Thompson sampling is asked of a model that does not know how sure it is.

    Thread-safety: any number of threads.
    """

    def __init__(
        self, stages: Mapping[str, Stage], catalogue: Catalogue, memory: SeenMemory, popularity: Popularity,
        config: RecommendConfig | None = None,
    ) -> None:  # fmt: skip
        self.stages, self.catalogue, self.memory = dict(stages), catalogue, memory
        self.popularity, self.config = popularity, config or RecommendConfig()
        require("main" in self.stages, "Recommender, stages", got=list(self.stages), expected="'main' among them")
        if isinstance(self.config.explore, Thompson):
            for name, stage in self.stages.items():
                require(stage.posterior is not None, f"Arm '{name}', explore", got="a model without LastLayerPosterior",
                        expected="one that knows how sure it is",
                        do="Wrap the ranker in headrace.nn.LastLayerPosterior, or use EpsilonGreedy.")  # fmt: skip
        self.columns: Columns = catalogue.columns
        self.filters = ItemFilters()
        self._orders: _Orders | None = None
        self._secret = secrets.randbits(63) if self.config.seed is None else self.config.seed
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        catalogue.watch(popularity.watch)
        for stage in self.stages.values():
            catalogue.watch(stage.retriever.watch)

    def start(self) -> None:
        """Read catalogue and memory, and follow the catalogue in the background."""
        self.catalogue.follow()
        if self.config.items is not None:
            self.catalogue.load(self.config.items)
        self.memory.follow()
        self._thread = threading.Thread(target=self._run, name="catalogue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def status(self) -> dict[str, object]:
        """Return how it stands, for health."""
        stage = self.stages["main"]
        return {"items": len(self.catalogue.shelf), "policy": self.config.explore.name, "seen": self.memory.counts(),
                "vectors": stage.retriever.vectors is not None, "encoded": stage.retriever.encoded}  # fmt: skip

    def gauges(self) -> Iterator[Reading]:
        """Yield what Prometheus is told."""
        seen = self.memory.counts()
        yield "headrace_items", "Items in the catalogue.", [({}, float(len(self.catalogue.shelf)))]
        yield "headrace_seen", "What is remembered of users.", [({"of": name}, float(n)) for name, n in seen.items()]
        encoded = [({"arm": name}, float(stage.retriever.encoded)) for name, stage in self.stages.items()]
        yield "headrace_items_encoded", "Vectors of items made so far.", encoded

    def recommend(self, wish: Wish, arm: str = "main") -> Recommended:
        """Answer a wish with the model of an arm; nothing is logged here.

        Raises:
            SchemaError: If the wish does not fit schema or catalogue.
            VersionError: If there is no version yet.
            NumericError: If the model's output is not finite.
        """
        self.memory.follow()
        stage, user = self.stages[arm], self._user(wish)
        with stage.predictor.replica.reading() as version:
            view = stage.retriever.view
            allowed = self._allowed(wish, view.shelf, user)
            free = int(np.count_nonzero(allowed))
            known = user is not None and stage.knows(wish.about)
            rows, sources = self._candidates(stage, view, wish, allowed, user, known)
            if not len(rows):
                return Recommended(None, (), version.number, self._policy(wish).name, 0, free, known)
            requests = self._rows(wish, view.shelf, rows)
            scored = stage.predictor.scoring(requests)(version)
            slate = self._choose(stage, wish, requests, scored)
        shown = self._shown(requests, scored, slate, version, self._policy(wish).name)
        return Recommended(shown, tuple(sources[place] for place in slate.chosen.tolist()), version.number,
                           self._policy(wish).name, len(rows), free, known, slate.error)  # fmt: skip

    def forget(self, user: object) -> bool:
        """Forget what a user has seen; returns whether anything was known."""
        return self.memory.forget(int(item_ids(pa.array([user]))[0]))

    def _policy(self, wish: Wish) -> Policy:
        return Greedy() if wish.explore is False else self.config.explore

    def _user(self, wish: Wish) -> int | None:
        column = wish.about.get(self.config.user)
        return None if column is None or column.null_count else int(item_ids(column)[0])

    def _allowed(self, wish: Wish, shelf: Shelf, user: int | None) -> Mask:
        allowed = self.filters.mask(shelf, wish.filters)
        gone = [shelf.find(wish.exclude)]
        rule = self.config.seen if wish.seen is None else wish.seen
        if user is not None and rule != "none":
            since = 0 if self.config.seen_s is None else time.time_ns() // 1000 - int(self.config.seen_s * 1e6)
            gone.append(shelf.find(self.memory.items(user, rule, since=since)))
        rows = np.concatenate(gone)
        if len(rows):
            allowed = allowed.copy()
            allowed[rows] = False
        return allowed

    def _candidates(
        self, stage: Stage, view: View, wish: Wish, allowed: Mask, user: int | None, known: bool
    ) -> tuple[Ints, list[str]]:  # fmt: skip
        """Return rows to be ranked, and why each of them is there."""
        most = self.config.candidates
        free = np.flatnonzero(allowed)
        if len(free) <= most:
            return free, [NEAR] * len(free)
        orders = self._ordered(view.shelf)
        rare = orders.rare[allowed[orders.rare]][: round(most * self.config.fresh)]
        query = self._query(stage, view, wish, user)
        near = np.zeros(0, dtype=np.int64)
        if query is not None:  # a user without a row is known by other features alone: half of what is left is popular
            share = self.config.popular if known else max(self.config.popular, (1 - self.config.fresh) / 2)
            near = stage.retriever.near(view, query, allowed, most - len(rare) - round(most * share))
        popular = orders.popular[allowed[orders.popular]][:most]
        rows = np.concatenate([near, rare, popular])
        names = [NEAR] * len(near) + [FRESH] * len(rare) + [POPULAR] * len(popular)
        _, first = np.unique(rows, return_index=True)
        kept = np.sort(first)[:most]
        return rows[kept], [names[place] for place in kept.tolist()]

    def _query(self, stage: Stage, view: View, wish: Wish, user: int | None) -> Tensor | None:
        vectors = stage.retriever.vectors
        if vectors is None or view.vectors is None:
            return None
        took = np.zeros(0, dtype=np.int64)
        if user is not None:
            took = view.shelf.find(self.memory.items(user, "acted")[: self.config.recent])
        return vectors.user(as_rows(dict(wish.about), 1), view.vectors[torch.from_numpy(took)])

    def _ordered(self, shelf: Shelf) -> _Orders:
        """Return the shelf's rows by popularity and by rarity, at most a second old."""
        held = self._orders
        if held is not None and held.generation == shelf.generation and time.monotonic() - held.made < ORDERS_S:
            return held
        popular, shown = self.popularity.of(shelf)
        rare = np.flatnonzero(shelf.alive & (shown < self.config.fresh_shown))
        rare = rare[np.lexsort((-shelf.stamps[rare], shown[rare]))]
        order = best_first(popular)[: len(shelf)]
        self._orders = held = _Orders(shelf.generation, time.monotonic(), order, rare)
        return held

    def _rows(self, wish: Wish, shelf: Shelf, rows: Ints) -> Events:
        """Return impression rows of candidates; what the catalogue says of an item goes before what the wish says."""
        columns = fixed_columns(wish, len(rows))
        places = pa.array(rows)
        for name in self.columns.names:
            said = noted(wish, name, len(rows))
            if name in shelf.columns.schema.names:
                held = self.columns.cast(name, shelf.columns.column(name).take(places))
                filled = held.null_count > 0
                columns[name] = pc.coalesce(held, said.cast(held.type)) if said is not None and filled else held
            elif said is not None:
                columns[name] = said
            elif name == self.config.user:  # nobody in particular
                columns[name] = self.columns.cast(name, pa.nulls(len(rows)))
        return Events.from_columns(columns)

    def _choose(self, stage: Stage, wish: Wish, requests: Events, scored: Events) -> Slate:
        policy = self._policy(wish)
        scores = np.asarray(scored.column("score").to_numpy(zero_copy_only=False), dtype=np.float64)
        chances = np.clip(scores, 1e-12, 1 - 1e-12)
        logits = np.log(chances) - np.log1p(-chances)
        spread = stage.spread(requests) if isinstance(policy, Thompson) else None
        draw = np.random.default_rng([self._secret, hash_text(wish.key) & ((1 << 64) - 1)])
        return policy.choose(logits, wish.n, draw, spread)

    def _shown(self, requests: Events, scored: Events, slate: Slate, version: Version, policy: str) -> Events:
        rows, n = requests.take(slate.chosen), len(slate.chosen)
        names = [name for name in scored.names if name == "score" or name.startswith("score/")]
        answer = scored.take(slate.chosen)
        return rows.with_columns(
            {name: answer.column(name) for name in names}
            | {
                "version": pa.array(np.full(n, version.number, np.int64)),
                PLACE: pa.array(np.arange(1, n + 1, dtype=np.int64)),
                PROPENSITY: pa.array(slate.propensities.astype(np.float32)),
                POLICY: pa.array([policy] * n, pa.string()),
            }
        )

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            try:
                self.catalogue.follow()
                self.memory.follow()
            except HeadraceError:  # a busy or damaged log: the next request that needs it says so
                continue
