#!/usr/bin/env bash
# Make build/peers/rlhf, the environment of the language benchmark's peer: TRL, the last release that has PPO, with the
# torch and transformers that it works with. Nothing is installed into the product's own environment. Run again, it
# does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
ENV=build/peers/rlhf
LOG=build/peers/rlhf.log
TRL=1.12.0
TORCH=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
TRANSFORMERS=$(sed -n 's/^transformers==\([0-9.]*\).*/\1/p' constraints.txt)
STAMP="$ENV/.trl-$TRL-torch-$TORCH-transformers-$TRANSFORMERS"

[ -e "$STAMP" ] && exit 0
mkdir -p build/peers
: >"$LOG"
install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }

echo "headrace: installing the language benchmark's peer into $ENV (log: $LOG)" >&2
rm -rf "$ENV"
"$PYTHON" -m venv "$ENV"
# The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
if ! { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } ||
  ! install "trl==$TRL" "transformers==$TRANSFORMERS" "torch==$TORCH"; then
  tail -n 5 "$LOG" >&2
  rm -rf "$ENV"
  echo "headrace: TRL could not be installed; its figures will be null" >&2
  exit 1
fi
touch "$STAMP"
