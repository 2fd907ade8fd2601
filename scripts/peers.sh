#!/usr/bin/env bash
# Make build/peers/env, the environment of the benchmark's peers: FBGEMM for CPUs and TorchRec, with the torch they were
# built for. Nothing is installed into the product's own environment. Run again, it does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
ENV=build/peers/env
LOG=build/peers/setup.log
TORCH=2.13.0
FBGEMM=1.8.0
STAMP="$ENV/.torch-$TORCH-fbgemm-$FBGEMM"

[ -e "$STAMP" ] && exit 0
mkdir -p build/peers
: >"$LOG"
install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }

echo "headrace: installing the benchmark's peers into $ENV (log: $LOG)" >&2
rm -rf "$ENV"
"$PYTHON" -m venv "$ENV"
# The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
if ! { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } ||
  ! install "fbgemm-gpu-cpu==$FBGEMM" "torch==$TORCH" numpy; then
  tail -n 5 "$LOG" >&2
  rm -rf "$ENV"
  echo "headrace: FBGEMM could not be installed; its figures will be null" >&2
  exit 1
fi
# TorchRec asks for the CUDA build of FBGEMM, which would overwrite the one above: its other needs are named here.
install tensordict "torchmetrics==1.0.3" tqdm pyre-extensions "torch==$TORCH" && install --no-deps "torchrec==$FBGEMM" ||
  echo "headrace: TorchRec could not be installed; its figure will be null" >&2
touch "$STAMP"
