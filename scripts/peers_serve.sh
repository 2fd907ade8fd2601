#!/usr/bin/env bash
# Make build/peers-serve/env, the environment of the serving benchmark's peers: Ray Serve, and FastAPI on uvicorn, with
# the torch that the product is tested with. Nothing is installed into the product's own environment. Run again, it
# does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/peer_environment.sh
RAY=2.60.0

peers_begin build/peers-serve/env build/peers-serve/setup.log "torch-$TORCH-ray-$RAY"
required torch install_torch numpy orjson
optional FastAPI install fastapi uvicorn httptools uvloop
optional "Ray Serve" install "ray[serve]==$RAY"
peers_end
