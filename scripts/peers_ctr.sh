#!/usr/bin/env bash
# Make build/peers/ctr_env, the environment of the peers of rankers (FuxiCTR, DeepCTR-Torch, RecBole), and
# build/peers/FuxiCTR, FuxiCTR's repository, whose model zoo is in no package. Nothing is installed into the product's
# own environment, and `make test` never runs this. Run again, it does nothing.
#
# Environment: FUXICTR_REPOSITORY, a clone (bare or not) to take the model zoo from instead of its official address.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/peer_environment.sh
FUXICTR_REPOSITORY=${FUXICTR_REPOSITORY:-https://github.com/reczoo/FuxiCTR.git}
COMMIT=0245987fdc1d43c36164ea496a02324885a8557a
ZOO=build/peers/FuxiCTR
FUXICTR=2.3.10

fuxictr() {
  install_torch numpy scipy pandas "polars<2" pyarrow pyyaml h5py tqdm scikit-learn keras_preprocessing pydantic \
    "ray[data]>=2.52" && install --no-deps "fuxictr==$FUXICTR"
}
# These two pin old versions of what they need, or name frameworks that their models never import.
deepctr() { install requests && install --no-deps "deepctr-torch==0.3.0"; }
recbole() {
  install tensorboard colorlog colorama thop tabulate plotly texttable psutil "torch==$TORCH" &&
    install --no-deps "recbole==1.2.1"
}

if [ ! -e "$ZOO/.$COMMIT" ]; then
  echo "headrace: fetching FuxiCTR's model zoo from $FUXICTR_REPOSITORY" >&2
  rm -rf "$ZOO" "$ZOO.git"
  mkdir -p build/peers
  git init -q --bare "$ZOO.git"
  git --git-dir="$ZOO.git" fetch -q --depth 1 "$FUXICTR_REPOSITORY" "$COMMIT" ||
    git --git-dir="$ZOO.git" fetch -q "$FUXICTR_REPOSITORY"
  mkdir -p "$ZOO"
  git --git-dir="$ZOO.git" archive "$COMMIT" model_zoo | tar -x -C "$ZOO"
  rm -rf "$ZOO.git"
  touch "$ZOO/.$COMMIT"
fi

peers_begin build/peers/ctr_env build/peers/ctr_setup.log "torch-$TORCH-fuxictr-$FUXICTR"
required FuxiCTR fuxictr
optional DeepCTR-Torch deepctr
optional RecBole recbole
peers_end
