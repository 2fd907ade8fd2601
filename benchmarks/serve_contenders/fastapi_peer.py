"""FastAPI and torch: `uvicorn serve_contenders.fastapi_peer:app --workers 2`.

Tuned: uvloop and httptools, no access log, the body is read as bytes and parsed by orjson instead of by models, the
network runs in inference mode in the event loop with one thread a process. SERVE_CASE names the exported model;
SERVE_COMPILED=1 compiles the network.
"""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import FastAPI, Request, Response

from serve_contenders.network import Scorer

scorer = Scorer(Path(os.environ["SERVE_CASE"]), compiled=os.environ.get("SERVE_COMPILED") == "1")
scorer.warm_up()
app = FastAPI(openapi_url=None)


@app.post("/v1/rank")
async def rank(request: Request) -> Response:
    """Score candidates."""
    return Response(scorer.answer(await request.body()), media_type="application/json")


@app.get("/v1/health")
async def health() -> dict[str, str]:
    """Tell that the model is loaded."""
    return {"status": "ok"}
