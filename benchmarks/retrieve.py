"""Finding candidates in a large catalogue: exact search, inverted lists and graphs, with what an update costs.

    python benchmarks/retrieve.py [--quick] [--items N] [--json]

Vectors of 32 numbers and length one, in clusters as item embeddings are; queries ask for the 140 nearest of all, and of
the twentieth part that a filter leaves. Times are those of one core. Recall is against the exact search. The last
figures are of whole requests: `Recommender.recommend` over a catalogue with two towers and a DeepFM that ranks 200
candidates. The lists are ours (`ListIndex`, on faiss); the graphs are measured where usearch is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
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
from headrace.serve import ListIndex, RecommendConfig, Retriever
from headrace.serve.retrieve import View
from headrace.serve.shelf import Shelf
from headrace.serve.wishes import Wish
from headrace.types import Version

WIDTH, NEAREST, ASKED, TOUCHED = 32, 140, 200, 1000
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


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


def recall(found: list[Rows], right: list[Rows]) -> list[float]:
    """Return the share of the right ones that was found, for every query."""
    return [len(np.intersect1d(some, all_)) / len(all_) for some, all_ in zip(found, right, strict=True)]


class Graphs:
    """Graphs of near neighbours under the same calls: usearch, which can change, and faiss, which removes nothing."""

    def __init__(self) -> None:
        import faiss
        from usearch.index import Index

        faiss.omp_set_num_threads(1)
        self.usearch: Any = Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=16, expansion_add=64,
                                  expansion_search=256)  # fmt: skip
        self.faiss: Any = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
        self.faiss.hnsw.efConstruction, self.faiss.hnsw.efSearch = 64, 256

    def near(self, kind: str, query: torch.Tensor) -> Rows:
        """Return the rows that one of them finds."""
        asked = query.numpy()
        if kind == "usearch":
            return np.asarray(self.usearch.search(asked, NEAREST, threads=1).keys, dtype=np.int64)
        return np.asarray(self.faiss.search(asked[None], NEAREST)[1][0], dtype=np.int64)

    def move(self, rows: Rows, fresh: Floats) -> None:
        """Put vectors in place of those of the same rows."""
        self.usearch.remove(rows.astype(np.uint64))
        self.usearch.add(rows.astype(np.uint64), fresh, threads=1)


def searches(record: ClaimRecord, items: int, queries: int, *, peers: bool) -> None:
    """Measure searches, updates and removals over one catalogue."""
    held, asked, name = vectors(items, 1), torch.from_numpy(vectors(queries, 2)), f"{items // 1000}k"
    view, replica = view_of(held), Replica({})
    exact, index = Retriever(replica), ListIndex()
    alive, few = view.shelf.alive, np.random.default_rng(3).random(items) < 0.05
    right = [exact.near(view, query, alive, NEAREST) for query in asked]
    build = each_ms(lambda _: index.put(np.arange(items), torch.from_numpy(held)), 1)
    lists = Retriever(replica, index=index, index_from=1)
    figures: dict[str, tuple[list[float], str]] = {
        "exact_ms": (each_ms(lambda n: exact.near(view, asked[n], alive, NEAREST), queries), "ms"),
        "filtered_ms": (each_ms(lambda n: exact.near(view, asked[n], few, NEAREST), queries), "ms"),
        "lists_build_s": ([build[0] / 1e3], "s"),
        "lists_ms": (each_ms(lambda n: lists.near(view, asked[n], alive, NEAREST), queries), "ms"),
        "lists_recall": (recall([lists.near(view, query, alive, NEAREST) for query in asked], right), ""),
        "lists_share_looked_into": ([index.looked_into / index.lists], ""),
    }  # fmt: skip
    fresh, rows = vectors(TOUCHED, 4), np.random.default_rng(5).permutation(items)[:TOUCHED].astype(np.int64)
    if peers:
        figures |= graph_figures(held, asked, right, fresh, rows)
    figures["lists_move_1000_ms"] = each_ms(lambda _: index.put(rows, torch.from_numpy(fresh)), 1), "ms"
    figures["lists_remove_1000_ms"] = each_ms(lambda _: index.remove(rows), 1), "ms"
    after = np.concatenate([index.near(query, NEAREST) for query in asked])
    figures["lists_removed_found"] = [float(np.isin(after, rows).sum())], ""
    for figure, (values, unit) in figures.items():
        goal = Goal("<=", 0.0) if figure == "lists_removed_found" else None
        record.add(f"{figure}_{name}", mean_over_seeds(values), unit=unit, goal=goal)


def graph_figures(
    held: Floats, asked: torch.Tensor, right: list[Rows], fresh: Floats, rows: Rows
) -> dict[str, tuple[list[float], str]]:  # fmt: skip
    """Return the same of the graphs."""
    graphs, keys = Graphs(), np.arange(len(held), dtype=np.uint64)
    built = {
        "usearch": each_ms(lambda _: graphs.usearch.add(keys, held, threads=1), 1),
        "faiss_graph": each_ms(lambda _: graphs.faiss.add(held), 1),
    }
    figures: dict[str, tuple[list[float], str]] = {}
    for kind, took in built.items():
        figures[f"{kind}_build_s"] = [took[0] / 1e3], "s"
        figures[f"{kind}_ms"] = each_ms(lambda n, kind=kind: graphs.near(kind, asked[n]), len(asked)), "ms"  # type: ignore[misc]
        figures[f"{kind}_recall"] = recall([graphs.near(kind, query) for query in asked], right), ""
    figures["usearch_move_1000_ms"] = each_ms(lambda _: graphs.move(rows, fresh), 1), "ms"
    return figures


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
        events, catalogue = (EmbeddedLog(folder / f"{name}.db", durability="process") for name in ("events", "items"))
        recommender = open_recommender(config, events, catalogue, {"main": serving.predictor})
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
    parser.add_argument("--items", type=int, help="another size: searches alone, without graphs and whole requests")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record, sizes = ClaimRecord(), (10_000,) if arguments.quick else (100_000,)
    if arguments.items:
        sizes = (arguments.items,)
    peers = not arguments.items and importlib.util.find_spec("usearch") is not None
    for items in sizes:
        searches(record, items, 50 if arguments.quick else 200, peers=peers)
    for items in () if arguments.items else sizes:
        whole(record, items, 50 if arguments.quick else 200)
    cells = tuple((name, f"{figure['value']:.3f}", str(figure["unit"])) for name, figure in record.figures.items())
    record.tables.append(ClaimTable("Retrieval, one core", ("figure", "value", "unit"), cells))
    result = record.to_json({"sizes": list(sizes), "width": WIDTH, "nearest": NEAREST, "threads": 1, "usearch": peers})
    print(json.dumps(result, indent=2) if arguments.json else render_tables(result))
    return 3 if any(figure["holds"] is False for figure in record.figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
