#!/usr/bin/env bash
# Make build/peers-serve/env, the environment of the serving benchmark's peers: Ray Serve, and FastAPI on uvicorn, with
# the torch that the product is tested with. Nothing is installed into the product's own environment. Run again, it
# does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
ENV=build/peers-serve/env
LOG=build/peers-serve/setup.log
TORCH=2.13.0
RAY=2.60.0
STAMP="$ENV/.torch-$TORCH-ray-$RAY"

[ -e "$STAMP" ] && exit 0
mkdir -p build/peers-serve
: >"$LOG"
install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }

echo "headrace: installing the serving benchmark's peers into $ENV (log: $LOG)" >&2
rm -rf "$ENV"
"$PYTHON" -m venv "$ENV"
# The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
if ! { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } || ! install numpy orjson; then
  tail -n 5 "$LOG" >&2
  rm -rf "$ENV"
  echo "headrace: torch could not be installed; the peers' figures will be null" >&2
  exit 1
fi
install fastapi uvicorn httptools uvloop ||
  echo "headrace: FastAPI could not be installed; its figures will be null" >&2
install "ray[serve]==$RAY" ||
  echo "headrace: Ray Serve could not be installed; its figures will be null" >&2
touch "$STAMP"
