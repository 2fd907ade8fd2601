"""Finding candidates in a large catalogue: exact search, usearch and faiss, with what an update and a removal cost.

    python benchmarks/retrieve.py [--quick] [--json]

Vectors of 32 numbers and length one, in clusters as item embeddings are; queries ask for the 140 nearest of all, and of
the twentieth part that a filter leaves. Times are those of one core. Recall is against the exact search. The last
figures are of whole requests: `Recommender.recommend` over a catalogue with two towers and a DeepFM that ranks 200
candidates.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from headrace.data import EmbeddedLog, IdFeature, JoinConfig, Schema
from headrace.evaluate import ClaimRecord, ClaimTable, Goal, mean_over_seeds
from headrace.evaluate.claims import render_tables
from headrace.nn import DeepFM, TowerInputs, TwoStage, TwoTower
from headrace.online import OnlineConfig, open_learner, open_recommender, open_serving
from headrace.publish import Replica
from headrace.serve import GraphIndex, RecommendConfig, Retriever
from headrace.serve.retrieve import View
from headrace.serve.shelf import Shelf
from headrace.serve.wishes import Wish
from headrace.types import Version

WIDTH, NEAREST, ASKED, TOUCHED = 32, 140, 200, 1000
Floats = npt.NDArray[np.float32]


def vectors(rows: int, seed: int) -> Floats:
    """Draw unit vectors around 500 centres; two calls share the centres."""
    centres = np.random.default_rng(0).normal(size=(500, WIDTH))
    draw = np.random.default_rng(seed)
    found = centres[draw.integers(500, size=rows)] + draw.normal(size=(rows, WIDTH)) * 0.7
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def view_of(items: Floats) -> View:
    """Return a shelf of that many items with these vectors."""
    rows = len(items)
    shelf = Shelf.empty("item").put(pa.RecordBatch.from_pydict({"item": [f"i{n}" for n in range(rows)]}))
    return View(shelf, torch.from_numpy(items))


def each_ms(work: Callable[[int], object], times: int) -> list[float]:
    """Return the milliseconds of one core that some calls took: work of others on the machine does not count."""
    found = []
    for number in range(times):
        start = time.process_time()
        work(number)
        found.append((time.process_time() - start) * 1e3)
    return found


def recall(found: list[npt.NDArray[np.int64]], right: list[npt.NDArray[np.int64]]) -> list[float]:
    """Return the share of the right ones that was found, for every query."""
    return [len(np.intersect1d(some, all_)) / len(all_) for some, all_ in zip(found, right, strict=True)]


class Peers:
    """faiss under the same calls: a graph, which can remove nothing, and inverted lists, which can."""

    def __init__(self, items: Floats) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self.graph: Any = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction, self.graph.hnsw.efSearch = 64, 256
        cells = max(int(4 * len(items) ** 0.5), 16)
        self.lists: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, cells, faiss.METRIC_INNER_PRODUCT)
        self.lists.nprobe = max(cells // 24, 4)
        self.lists.train(items[: min(len(items), 40 * cells)])
        self.keys = np.arange(len(items), dtype=np.int64)

    def build(self, items: Floats) -> tuple[float, float]:
        """Fill both; returns the seconds that each took."""
        graph = each_ms(lambda _: self.graph.add(items), 1)[0]
        lists = each_ms(lambda _: self.lists.add_with_ids(items, self.keys), 1)[0]
        return graph / 1e3, lists / 1e3

    def move(self, rows: npt.NDArray[np.int64], fresh: Floats) -> None:
        """Put vectors in place of those of the same rows."""
        self.lists.remove_ids(rows)
        self.lists.add_with_ids(fresh, rows)


def searches(record: ClaimRecord, items: int, queries: int, *, peers: bool) -> None:
    """Measure searches, updates and removals over one catalogue."""
    held, asked, name = vectors(items, 1), torch.from_numpy(vectors(queries, 2)), f"{items // 1000}k"
    view, replica = view_of(held), Replica({})
    exact, index = Retriever(replica), GraphIndex(effort_near=256)
    alive, few = view.shelf.alive, np.random.default_rng(3).random(items) < 0.05
    right = [exact.near(view, query, alive, NEAREST) for query in asked]
    figures: dict[str, tuple[list[float], str]] = {
        "exact_ms": (each_ms(lambda n: exact.near(view, asked[n], alive, NEAREST), queries), "ms"),
        "filtered_ms": (each_ms(lambda n: exact.near(view, asked[n], few, NEAREST), queries), "ms"),
        "usearch_build_s": ([each_ms(lambda _: index.put(np.arange(items), view.vectors), 1)[0] / 1e3], "s"),
    }  # fmt: skip
    graph = Retriever(replica, index=index, index_from=1)
    found = [graph.near(view, query, alive, NEAREST) for query in asked]
    figures["usearch_ms"] = each_ms(lambda n: graph.near(view, asked[n], alive, NEAREST), queries), "ms"
    figures["usearch_recall"] = recall(found, right), ""
    if peers:
        other = Peers(held)
        built = other.build(held)
        figures["faiss_hnsw_build_s"], figures["faiss_ivf_build_s"] = ([built[0]], "s"), ([built[1]], "s")
        for kind, one in (("hnsw", other.graph), ("ivf", other.lists)):
            rows = [np.asarray(one.search(query[None].numpy(), NEAREST)[1][0]) for query in asked]
            figures[f"faiss_{kind}_recall"] = recall(rows, right), ""
            calls = each_ms(lambda n, one=one: one.search(asked[n][None].numpy(), NEAREST), queries)  # type: ignore[misc]
            figures[f"faiss_{kind}_ms"] = calls, "ms"
    fresh, rows = vectors(TOUCHED, 4), np.random.default_rng(5).permutation(items)[:TOUCHED].astype(np.int64)
    figures["usearch_move_1000_ms"] = each_ms(lambda _: index.put(rows, torch.from_numpy(fresh)), 1), "ms"
    if peers:
        figures["faiss_ivf_move_1000_ms"] = each_ms(lambda _: other.move(rows, fresh), 1), "ms"
    figures["usearch_remove_1000_ms"] = each_ms(lambda _: index.remove(rows), 1), "ms"
    after = [index.near(query, NEAREST) for query in asked]
    figures["usearch_removed_found"] = [float(np.isin(np.concatenate(after), rows).sum())], ""
    for figure, (values, unit) in figures.items():
        goal = Goal("<=", 0.0) if figure == "usearch_removed_found" else None
        record.add(f"{figure}_{name}", mean_over_seeds(values), unit=unit, goal=goal)


def whole(record: ClaimRecord, items: int, requests: int) -> None:
    """Measure requests, and the encoding of all items when a version moves the item tower."""
    schema = Schema(features=(IdFeature("user", 16), IdFeature("item", 16), IdFeature("topic", 16)))

    def network(embed: torch.nn.Module, schema: Schema, seed: int) -> TwoStage:
        return TwoStage(
            embed,
            lambda once: DeepFM(once, schema.id_names, 0, (64, 32), seed=seed),
            lambda once: TwoTower(once, TowerInputs(("user",)), TowerInputs(("item", "topic")), (32,), width=WIDTH),
        )

    config = OnlineConfig(name="bench", schema=schema, model=network, join=JoinConfig(window_s=60, lateness_s=1),
                          recommend=RecommendConfig(candidates=ASKED))  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        folder, serving = Path(place), open_serving(config)
        logs = [EmbeddedLog(folder / f"{name}.db", durability="process") for name in ("events", "items")]
        recommender = open_recommender(config, *logs, {"main": serving.predictor})
        first = open_learner(config).changes(Version(-1))
        serving.predictor.apply(first)
        rows = pa.RecordBatch.from_pydict({"item": [f"i{n}" for n in range(items)],
                                           "topic": [f"t{n % 50}" for n in range(items)]})  # fmt: skip
        recommender.catalogue.put(rows)

        def ask(number: int) -> None:
            about = {"user": pa.array([f"u{number}"])}
            recommender.recommend(Wish(key=f"k{number}", event_time=1, about=about))

        def move(number: int) -> None:
            dense = {name: value + 1e-3 if value.is_floating_point() else value for name, value in first.dense.items()}
            serving.predictor.apply(
                replace(first, version=Version(number + 1, number), dense=dense, tables={}, full=False)
            )

        each_ms(ask, 20)
        record.add(f"request_ms_{items // 1000}k", mean_over_seeds(each_ms(ask, requests)), unit="ms")
        record.add(f"encode_all_s_{items // 1000}k", mean_over_seeds([each_ms(move, 1)[0] / 1e3]), unit="s")


def main() -> int:
    """Measure and print; 3 when a removed item was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 items instead of 100,000")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record, sizes = ClaimRecord(), (10_000,) if arguments.quick else (100_000,)
    try:
        import faiss  # noqa: F401
    except ImportError:
        peers = False
    else:
        peers = True
    for items in sizes:
        searches(record, items, 50 if arguments.quick else 200, peers=peers)
    for items in sizes:
        whole(record, items, 50 if arguments.quick else 200)
    cells = tuple((name, f"{figure['value']:.3f}", str(figure["unit"])) for name, figure in record.figures.items())
    record.tables.append(ClaimTable("Retrieval, one core", ("figure", "value", "unit"), cells))
    result = record.to_json({"sizes": list(sizes), "width": WIDTH, "nearest": NEAREST, "threads": 1, "faiss": peers})
    print(json.dumps(result, indent=2) if arguments.json else render_tables(result))
    return 3 if any(figure["holds"] is False for figure in record.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
