#!/usr/bin/env bash
# Make build/peers/env, the environment of the table benchmark's peers: FBGEMM for CPUs and TorchRec, with the torch they
# were built for. Nothing is installed into the product's own environment. Run again, it does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/peer_environment.sh
FBGEMM=1.8.0

# TorchRec asks for the CUDA build of FBGEMM, which would overwrite the one for CPUs: its other needs are named here.
torchrec() {
  install tensordict "torchmetrics==1.0.3" tqdm pyre-extensions "torch==$TORCH" && install --no-deps "torchrec==$FBGEMM"
}

peers_begin build/peers/env build/peers/setup.log "torch-$TORCH-fbgemm-$FBGEMM"
required FBGEMM install_torch "fbgemm-gpu-cpu==$FBGEMM" numpy
optional TorchRec torchrec
peers_end
