"""A program that reads the OpenAPI document and tries everything it allows, and much that it does not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.online import RunFolder, open_learner, open_log
from headrace.online.layout import CHANGES
from headrace.publish import LogPublisher
from headrace.serve import AccessConfig, Client, TokenBook, make_token
from headrace.serve.tokens import write_tokens
from headrace.types import Version

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "build" / "schemathesis" / "env" / "bin" / "schemathesis"
SCOPES = ["read", "feedback", "admin"]
RECIPE = """
from headrace.data import DenseFeature, IdFeature, JoinConfig, Schema
from headrace.nn import DeepFM
from headrace.online import OnlineConfig
from headrace.serve.recommend_config import RecommendConfig

def shop() -> OnlineConfig:
    return OnlineConfig(
        name="shop", join=JoinConfig(window_s=60, lateness_s=1), position="position", recommend=RecommendConfig(),
        schema=Schema(features=(
            IdFeature("user", 6, accepts="string"), IdFeature("item", 6, accepts="string"), IdFeature("brand", 6),
            IdFeature("position", 6, accepts="integer", serve_as=1), DenseFeature("price"))),
        model=lambda embed, schema, seed: DeepFM(embed, schema.id_names, 1, (8,), dim=6, seed=seed),
    )
"""
pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


def program() -> Path:
    """The program; its environment is made if there is none."""
    subprocess.run([str(ROOT / "scripts" / "schemathesis.sh")], check=False, capture_output=True, timeout=600)
    if not PROGRAM.exists():
        pytest.skip("schemathesis could not be installed by scripts/schemathesis.sh")
    return PROGRAM


@dataclass
class Process:
    """`headrace serve` as users start it, with everything that a server can have."""

    url: str
    secret: str
    process: subprocess.Popen[bytes]


@pytest.fixture(params=[0, 2], ids=["one process", "two workers"])
def served(request: pytest.FixtureRequest, tmp_path: Path, free_port: int, monkeypatch) -> Iterator[Process]:
    (tmp_path / "schemathesis_shop.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(str(tmp_path))
    config, folder = importlib.import_module("schemathesis_shop").shop(), RunFolder(tmp_path / "run")
    LogPublisher(open_log(config, folder, CHANGES), folder.snapshots).publish(open_learner(config).changes(Version(-1)))
    secret, token = make_token("tester", SCOPES)
    write_tokens(tmp_path / "tokens", [token])
    command = [sys.executable, "-m", "headrace", "serve", "schemathesis_shop:shop", "--folder", str(folder.root),
               "--port", str(free_port), "--tokens", str(tmp_path / "tokens"), "--workers", str(request.param),
               ]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=(tmp_path / "log").open("wb"))
    url = f"http://127.0.0.1:{free_port}"
    with Client(url, token=secret) as client:
        client.wait_ready(120)
    yield Process(url, secret, process)
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 0
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


def tried(url: str, secret: str, folder: Path) -> None:
    """Try everything out; fails with what was found."""
    many = os.environ.get("HEADRACE_SCHEMATHESIS_EXAMPLES", "100")
    # Which features are needed in one of three places, and what may not come twice, a JSON schema does not say: so a
    # body that fits it may get 400.
    command = [str(program()), "run", f"{url}/openapi.json", "--max-examples", many, "--seed", "7", "--exclude-checks",
               "positive_data_acceptance", "--continue-on-failure", "--warnings", "off",
               *(["--header", f"Authorization: Bearer {secret}"] if secret else [])]  # fmt: skip
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]


@pytest.mark.parametrize("guarded", [False, True])
def test_no_request_of_the_document_or_beside_it_breaks_the_server(make_house, tmp_path, guarded: bool) -> None:
    secret, token = make_token("tester", SCOPES)
    book = TokenBook([token, make_token("other", ["read"])[1]])
    house = make_house(access=AccessConfig(tokens=book), token=secret) if guarded else make_house()
    version = house.service.predictor.version
    tried(house.client.url, secret if guarded else "", tmp_path)
    assert house.http.get("/v1/ready").status_code == 200
    assert house.service.predictor.version == version
    assert 'status="500"' not in house.http.get("/metrics").text


def test_nor_a_server_that_has_everything(served: Process, tmp_path: Path) -> None:
    tried(served.url, served.secret, tmp_path)
    with Client(served.url, token=served.secret) as client:
        assert 'status="500"' not in client.metrics()
        assert client.health()["version"] == 0
