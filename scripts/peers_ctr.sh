#!/usr/bin/env bash
# Make build/peers/ctr_env, the environment of the peers of rankers (FuxiCTR, DeepCTR-Torch, RecBole), and
# build/peers/FuxiCTR, FuxiCTR's repository, whose model zoo is in no package. Nothing is installed into the product's
# own environment, and `make test` never runs this. Run again, it does nothing.
#
# Environment: PYTHON (default: $VENV/bin/python, else python3); FUXICTR_REPOSITORY, a clone (bare or not) to take the
# model zoo from instead of its official address.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-${VENV:-.venv}/bin/python}
command -v "$PYTHON" >/dev/null 2>&1 || PYTHON=python3
FUXICTR_REPOSITORY=${FUXICTR_REPOSITORY:-https://github.com/reczoo/FuxiCTR.git}
COMMIT=0245987fdc1d43c36164ea496a02324885a8557a
ENV=build/peers/ctr_env
ZOO=build/peers/FuxiCTR
LOG=build/peers/ctr_setup.log
TORCH=2.13.0
FUXICTR=2.3.10
STAMP="$ENV/.torch-$TORCH-fuxictr-$FUXICTR"

mkdir -p build/peers
if [ ! -e "$STAMP" ]; then
  : >"$LOG"
  install() { "$ENV/bin/python" -m pip install -q "$@" >>"$LOG" 2>&1; }
  echo "headrace: installing the rankers' peers into $ENV (log: $LOG)" >&2
  rm -rf "$ENV"
  "$PYTHON" -m venv "$ENV"
  # The default torch for Linux brings several GB of CUDA libraries; the CPU build is taken from wherever pip looks.
  if ! { install "torch==$TORCH+cpu" || install "torch==$TORCH"; } ||
    ! install numpy scipy pandas "polars<2" pyarrow pyyaml h5py tqdm scikit-learn keras_preprocessing pydantic "ray[data]>=2.52" \
      "torch==$TORCH" || ! install --no-deps "fuxictr==$FUXICTR"; then
    tail -n 5 "$LOG" >&2
    rm -rf "$ENV"
    echo "headrace: FuxiCTR could not be installed" >&2
    exit 1
  fi
  # The other two pin old versions of what they need, or name frameworks that their models never import.
  install requests && install --no-deps "deepctr-torch==0.3.0" ||
    echo "headrace: DeepCTR-Torch could not be installed; its expected tensors cannot be made again" >&2
  install tensorboard colorlog colorama thop tabulate plotly texttable psutil "torch==$TORCH" &&
    install --no-deps "recbole==1.2.1" ||
    echo "headrace: RecBole could not be installed; its expected tensors cannot be made again" >&2
  touch "$STAMP"
fi

if [ ! -e "$ZOO/.$COMMIT" ]; then
  echo "headrace: fetching FuxiCTR's model zoo from $FUXICTR_REPOSITORY" >&2
  rm -rf "$ZOO" "$ZOO.git"
  git init -q --bare "$ZOO.git"
  git --git-dir="$ZOO.git" fetch -q --depth 1 "$FUXICTR_REPOSITORY" "$COMMIT" ||
    git --git-dir="$ZOO.git" fetch -q "$FUXICTR_REPOSITORY"
  mkdir -p "$ZOO"
  git --git-dir="$ZOO.git" archive "$COMMIT" model_zoo | tar -x -C "$ZOO"
  rm -rf "$ZOO.git"
  touch "$ZOO/.$COMMIT"
fi
