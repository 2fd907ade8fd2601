"""One replica of torchft: steps of a small network until a file appears; writes down when each step was committed.

Runs in the peer's environment, so it imports nothing of ours. `torchft_replica.py lighthouse` is the lighthouse.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn


def lighthouse(settings: dict) -> None:
    """Serve until killed; say the address first."""
    from torchft.coordination import LighthouseServer

    server = LighthouseServer(
        bind="[::]:0", min_replicas=1, join_timeout_ms=settings["join_timeout_ms"],
        quorum_tick_ms=settings["tick_ms"], heartbeat_timeout_ms=int(settings["silence_s"] * 1000),
    )  # fmt: skip
    port = server.address().rsplit(":", 1)[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    while True:
        time.sleep(60)


def network(inputs: int, width: int) -> nn.Module:
    """Return the network that ours trains as well."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def replica(settings: dict, index: int, where: str, folder: Path) -> None:
    """Train until `folder/stop` is there."""
    from torch.distributed import TCPStore
    from torchft import DistributedDataParallel, Manager, Optimizer, ProcessGroupGloo

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model = network(settings["inputs"], settings["width"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    silence = timedelta(seconds=settings["silence_s"])
    manager = Manager(
        pg=ProcessGroupGloo(timeout=silence), load_state_dict=model.load_state_dict, state_dict=model.state_dict,
        min_replica_size=1, timeout=silence, quorum_timeout=timedelta(seconds=60), rank=0, world_size=1,
        store_addr="127.0.0.1", store_port=store.port, lighthouse_addr=where, replica_id=f"replica{index}",
        hostname="127.0.0.1", heartbeat_interval=timedelta(seconds=settings["beat_s"]),
    )  # fmt: skip
    # The manager averages over replicas, DistributedDataParallel overlaps that with the backward pass.
    parallel = DistributedDataParallel(manager, model)
    optimizer = Optimizer(manager, torch.optim.SGD(model.parameters(), lr=0.01))
    generator = torch.Generator().manual_seed(index)
    lines = (folder / f"replica-{index}.steps").open("a", buffering=1)
    while not (folder / "stop").exists():
        began = time.monotonic()
        rows = torch.randn(settings["rows"], settings["inputs"], generator=generator)
        labels = (rows.sum(1, keepdim=True) > 0).float()
        time.sleep(settings["compute_s"])
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(parallel(rows), labels).backward()
        before = manager.current_step()
        optimizer.step()
        committed = manager.current_step() > before
        lines.write(f"{before} {int(committed)} {began:.6f} {time.monotonic():.6f} {manager.num_participants()}\n")


def main() -> None:
    """Play the role that the arguments name."""
    role, settings = sys.argv[1], json.loads(os.environ["RECOVERY_SETTINGS"])
    if role == "lighthouse":
        lighthouse(settings)
    else:
        replica(settings, int(role), sys.argv[2], Path(sys.argv[3]))


if __name__ == "__main__":
    main()
