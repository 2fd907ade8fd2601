"""Ray Serve and torch: `python -m serve_contenders.ray_peer PORT REPLICAS`; ends with its standard input.

Tuned: as many replicas as told, one thread each, the body as bytes parsed by orjson, no access log, and Ray's own
switches for throughput (user code and router in the main loop). SERVE_CASE names the exported model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


class Ranker:
    """The deployment."""

    def __init__(self, case: str) -> None:
        from serve_contenders.network import Scorer

        self.scorer = Scorer(Path(case))
        self.scorer.warm_up()

    async def __call__(self, request: Request) -> Any:
        """Score candidates, or tell that the model is loaded."""
        if request.method == "GET":
            return {"status": "ok"}
        return Response(self.scorer.answer(await request.body()), media_type="application/json")


def main() -> None:
    """Serve until the input ends."""
    port, replicas = int(sys.argv[1]), int(sys.argv[2])
    ray.init(num_cpus=replicas + 1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
             runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ["PYTHONPATH"]}})  # fmt: skip
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    deployment = serve.deployment(Ranker, num_replicas=replicas, max_ongoing_requests=64,
                                  ray_actor_options={"num_cpus": 1})  # fmt: skip
    serve.run(deployment.bind(os.environ["SERVE_CASE"]), name="rank", route_prefix="/")
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
