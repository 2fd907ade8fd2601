"""A program that reads the OpenAPI document and tries everything it allows, and much that it does not."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from headrace.serve import AccessConfig, TokenBook, make_token

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / "build" / "schemathesis" / "env" / "bin" / "schemathesis"


def program() -> Path:
    """The program; its environment is made if there is none."""
    subprocess.run([str(ROOT / "scripts" / "schemathesis.sh")], check=False, capture_output=True, timeout=600)
    if not PROGRAM.exists():
        pytest.skip("schemathesis could not be installed by scripts/schemathesis.sh")
    return PROGRAM


@pytest.mark.live
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guarded", [False, True])
def test_no_request_of_the_document_or_beside_it_breaks_the_server(make_house, tmp_path, guarded: bool) -> None:
    secret, token = make_token("tester", ["read", "feedback", "admin"])
    book = TokenBook([token, make_token("other", ["read"])[1]])
    house = make_house(access=AccessConfig(tokens=book), token=secret) if guarded else make_house()
    tried = int(os.environ.get("HEADRACE_SCHEMATHESIS_EXAMPLES", "100"))
    version = house.service.predictor.version
    # Which features are needed in one of three places, and what may not come twice, a JSON schema does not say: so a
    # body that fits it may get 400.
    command = [str(program()), "run", f"{house.client.url}/openapi.json", "--max-examples", str(tried), "--seed", "7",
               "--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--warnings", "off",
               "--report", "json", "--report-json-path", str(tmp_path / "report.json"),
               *(["--header", f"Authorization: Bearer {secret}"] if guarded else [])]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]
    assert json.loads((tmp_path / "report.json").read_text())
    assert house.http.get("/v1/ready").status_code == 200
    assert house.service.predictor.version == version
    text = house.http.get("/metrics").text
    assert 'status="500"' not in text
