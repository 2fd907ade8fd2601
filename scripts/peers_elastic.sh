#!/usr/bin/env bash
# Make build/peers-elastic/env, the environment of the recovery benchmark's peer: torchft, with the torch that the
# product is tested with. Nothing is installed into the product's own environment. Run again, it does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
ENV=build/peers-elastic/env
LOG=build/peers-elastic/setup.log
TORCH=2.13.0
TORCHFT=2026.10.26
STAMP="$ENV/.torch-$TORCH-torchft-$TORCHFT"

[ -e "$STAMP" ] && exit 0
mkdir -p build/peers-elastic
: >"$LOG"
install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }

echo "headrace: installing the recovery benchmark's peer into $ENV (log: $LOG)" >&2
rm -rf "$ENV"
"$PYTHON" -m venv "$ENV"
# The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
if ! { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } || ! install numpy; then
  tail -n 5 "$LOG" >&2
  rm -rf "$ENV"
  echo "headrace: torch could not be installed; the peer's figures will be null" >&2
  exit 1
fi
install "torchft-nightly==$TORCHFT" "torch==$TORCH" ||
  echo "headrace: torchft could not be installed; its figures will be null" >&2
touch "$STAMP"
