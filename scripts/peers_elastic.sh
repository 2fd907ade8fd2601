#!/usr/bin/env bash
# Make build/peers-elastic/env, the environment of the recovery benchmark's peer: torchft, with the torch that the
# product is tested with. Nothing is installed into the product's own environment. Run again, it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/peer_environment.sh
TORCHFT=2026.10.26

peers_begin build/peers-elastic/env build/peers-elastic/setup.log "torch-$TORCH-torchft-$TORCHFT"
required torch install_torch numpy
required torchft install "torchft-nightly==$TORCHFT" "torch==$TORCH"
peers_end
