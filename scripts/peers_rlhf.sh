#!/usr/bin/env bash
# Make build/peers/rlhf, the environment of the language benchmark's peer: TRL, the last release that has PPO, with the
# torch and transformers that it works with. Nothing is installed into the product's own environment. Run again, it
# does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/peer_environment.sh
TRL=1.12.0
TRANSFORMERS=$(sed -n 's/^transformers==\([0-9.]*\).*/\1/p' constraints.txt)

peers_begin build/peers/rlhf build/peers/rlhf.log "trl-$TRL-torch-$TORCH-transformers-$TRANSFORMERS"
required TRL install_torch "trl==$TRL" "transformers==$TRANSFORMERS"
peers_end
