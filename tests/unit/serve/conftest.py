"""A small ranker: schema, model, replica with two versions to give it, and a service behind a test client."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from headrace.data.features import DenseFeature, IdFeature, MultiIdFeature, Schema
from headrace.data.log import EmbeddedLog
from headrace.nn import DeepFM
from headrace.publish import ChangeReader, LogPublisher, Replica
from headrace.serve import (
    AccessConfig,
    AuditLog,
    Client,
    RankPredictor,
    ServeConfig,
    TokenBook,
    create_app,
    make_token,
    run_server,
)
from headrace.serve.service import RankService
from headrace.store import EmbeddingCollection, FeatureLookup, TableConfig, open_table
from headrace.types import Change, Events, RowChange, Version

SCHEMA = Schema(features=(
    IdFeature("user", 4, accepts="string"), IdFeature("item", 4, accepts="string"),
    IdFeature("city", 4), MultiIdFeature("tags", 4, accepts="string", optional=True),
    IdFeature("position", 4, accepts="integer", serve_as=1), DenseFeature("price", transform="log1p"),
))  # fmt: skip
NAMES = ("user", "item", "city", "tags", "position")


def build(schema: Schema = SCHEMA, **settings: object) -> RankPredictor:
    tables = {name: open_table(TableConfig(name=name, dim=4, seed=2), serving=True) for name in NAMES}
    embed = EmbeddingCollection(
        tables, [FeatureLookup(feature=f.name, table=f.table, pooling=f.pooling) for f in schema.id_features]
    )
    model = DeepFM(embed, list(NAMES), 1, (16, 8), seed=4)
    return RankPredictor(model, Replica(tables, model), schema, **settings)  # type: ignore[arg-type]


def made(number: int, *, spec: dict[str, str] | None = None, notes: dict[str, torch.Tensor] | None = None) -> Change:
    """Return version `number`: other rows in every table and another value in every dense tensor."""
    draw = np.random.default_rng(number)
    ids = torch.arange(1, 9)

    def drawn(spread: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(np.asarray(draw.normal(0, spread, size=shape), dtype=np.float32))

    rows = {name: RowChange(ids, drawn(0.4, 8, 4), torch.tensor([20 + number])) for name in NAMES}
    shapes = {name: tuple(value.shape) for name, value in build().model.state_dict().items()}
    dense = {name: drawn(0.2, *shape) for name, shape in shapes.items()}
    return Change(version=Version(number, number - 1), tables=rows, dense=dense, spec=spec or {}, notes=notes or {})


def asked(rows: int, *, position: bool = False, seed: int = 0) -> Events:
    """Return impression rows of several requests."""
    draw = np.random.default_rng(seed)
    columns: dict[str, object] = {
        "key": [f"r{n // 5}" for n in range(rows)], "kind": ["impression"] * rows,
        "event_time": list(range(1000, 1000 + rows)), "item": [f"i{n}" for n in range(rows)],
        "user": [f"u{n}" for n in draw.integers(40, size=rows)], "city": draw.integers(9, size=rows),
        "tags": [[f"t{n}" for n in draw.integers(9, size=draw.integers(4))] for _ in range(rows)],
        "price": draw.uniform(1, 300, size=rows),
    }  # fmt: skip
    if position:
        columns["position"] = draw.integers(1, 9, size=rows)
    return Events.from_columns(columns)


@pytest.fixture
def make_predictor() -> Callable[..., RankPredictor]:
    return build


@pytest.fixture
def make_change() -> Callable[..., Change]:
    return made


@pytest.fixture
def make_requests() -> Callable[..., Events]:
    return asked


@pytest.fixture
def schema() -> Schema:
    return SCHEMA


@dataclass
class House:
    """A ranker served on a loopback port, and everything around it."""

    http: httpx.Client
    client: Client
    log: EmbeddedLog
    publisher: LogPublisher
    service: RankService
    thread: threading.Thread
    stop: threading.Event

    def logged(self) -> Events:
        """Return every row of the event log."""
        entries = self.log.read("events", 0, limit=100_000)
        return Events.concat([entry.events for entry in entries])

    def close(self) -> None:
        """End the server and wait for it."""
        self.http.close()
        self.client.close()
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


def open_house(
    folder: Path, config: ServeConfig | None = None, *, first: bool = True, access: AccessConfig | None = None,
    token: str | None = None,
) -> House:  # fmt: skip
    """Serve what `folder` has; `first` publishes version 0 if nothing was published; `token` is the clients'."""
    log = EmbeddedLog(folder / "events.db", durability="process")
    publisher = LogPublisher(EmbeddedLog(folder / "changes.db", durability="process"), folder / "snapshots")
    if first and publisher.last().number < 0:
        publisher.publish(made(0))
    reader = ChangeReader(EmbeddedLog(folder / "changes.db", durability="process"), folder / "snapshots")
    app = create_app(build(), log, config, changes=reader, access=access)
    ready: queue.Queue[str] = queue.Queue()
    stop = threading.Event()
    options = {"port": 0, "on_ready": ready.put, "stop": stop, "access": access}
    thread = threading.Thread(target=run_server, args=(app,), kwargs=options)
    thread.start()
    url = ready.get(timeout=20)
    http = httpx.Client(base_url=url, trust_env=False, headers={"authorization": f"Bearer {token}"} if token else {})
    return House(http, Client(url, token=token), log, publisher, app.state.service, thread, stop)


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    opened: list[House] = []

    def make(config: ServeConfig | None = None, *, name: str = "run", **options: object) -> House:
        opened.append(open_house(tmp_path / name, config, **options))
        return opened[-1]

    yield make
    for house in opened:
        house.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One server for tests that leave nothing behind, or do not mind what others left."""
    house = open_house(tmp_path_factory.mktemp("shared"))
    yield house
    house.close()


@dataclass
class Guarded:
    """A server in this process, and headers for each kind of bearer."""

    app: object
    log: EmbeddedLog
    audit: AuditLog
    bearers: dict[str, dict[str, str]]

    @asynccontextmanager
    async def client(self, *, raising: bool = True) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, client=("192.0.2.7", 5), raise_app_exceptions=raising)
        outside = httpx.AsyncClient(transport=transport, base_url="http://test")
        async with self.app.router.lifespan_context(self.app), outside as client:
            yield client


@pytest.fixture
def guard(tmp_path: Path, make_predictor, make_change):
    def make(config: ServeConfig | None = None, **access: object) -> Guarded:
        made = {name: make_token(name, scopes.split()) for name, scopes in {
            "reader": "read", "web": "read feedback", "ops": "admin"}.items()}  # fmt: skip
        log = EmbeddedLog(tmp_path / "run" / "events.db", durability="process")
        predictor = make_predictor()
        predictor.apply(make_change(0))
        book = TokenBook([token for _, token in made.values()])
        app = create_app(predictor, log, config, access=AccessConfig(tokens=book, **access))
        bearers = {name: {"authorization": f"Bearer {secret}"} for name, (secret, _) in made.items()}
        return Guarded(app, log, AuditLog(tmp_path / "run" / "audit.jsonl"), {"nobody": {}, **bearers})

    return make


TEXTS = ["the cat sat on the mat", "a dog and a cat are glad", "kind words are warm", "cold words are grey"] * 10


def language_parts(seed: int = 1, **settings: object):
    """A codec, and a function that builds models of it: larger weights, so that what is written differs."""
    from headrace.data import TextCodec
    from headrace.nn import CausalSettings, CausalTransformer

    codec = TextCodec.trained(TEXTS, 300)
    sizes = CausalSettings(vocabulary=codec.vocabulary, width=16, layers=2, heads=2, max_length=96, **settings)

    def model(number: int = seed) -> CausalTransformer:
        made = CausalTransformer(sizes, seed=number)
        with torch.no_grad():
            for value in made.parameters():
                value.mul_(3.0)
        return made

    return codec, model


@dataclass
class Study:
    """A language model in this process behind its application; `publish` gives it another version."""

    app: object
    service: object
    log: EmbeddedLog
    publish: Callable[[int], None]

    @asynccontextmanager
    async def client(self, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        outside = httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        async with self.app.router.lifespan_context(self.app), outside as client:
            yield client

    def logged(self) -> list[dict]:
        """Every row of the event log."""
        entries = self.log.read("events", 0, limit=100_000)
        return [row for entry in entries for row in entry.events.batch.to_pylist()]


@pytest.fixture(scope="module")
def language():
    """A codec, and a function that makes a tiny language model of a seed."""
    return language_parts()


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    from headrace.serve import LanguagePredictor
    from headrace.serve.http import create_language_app
    from headrace.serve.language_service import LanguageService, Offer
    from headrace.serve.language_settings import LanguageSettings

    def make(access: AccessConfig | None = None, config: ServeConfig | None = None, **settings: object) -> Study:
        torch.set_num_threads(1)
        codec, model = language_parts()
        served = model(99)
        predictor = LanguagePredictor(served, Replica({}, served), codec=codec)

        def publish(number: int) -> None:
            dense = model(number).state_dict()
            predictor.apply(Change(version=Version(number, number - 1), dense=dense, full=not number))

        publish(0)
        log = EmbeddedLog(tmp_path / "run" / "events.db", durability="process")
        offer = Offer(name="tiny", settings=LanguageSettings(usual_tokens=12, max_tokens=40, **settings),
                      prompts=("the cat", "a dog"))  # fmt: skip
        service = LanguageService(predictor, log, config or ServeConfig(), offer)
        return Study(create_language_app(service, access=access), service, log, publish)

    return make
