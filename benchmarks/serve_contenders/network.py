"""The same DeepFM in plain torch, for the peers: no part of Headrace is imported.

All tables lie in one tensor, of which a request gathers (candidates, 26) rows at once. Bodies are read with orjson,
ids become an array in one step, and answers have what Headrace's have.
"""

from __future__ import annotations

import json
import uuid
from operator import itemgetter
from pathlib import Path

import numpy as np
import orjson
import torch
from torch import Tensor, nn


class DeepFM(nn.Module):
    """A linear term, a factorization machine and a deep network over the same embeddings."""

    def __init__(self, rows: Tensor, dense: dict[str, Tensor]) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows, requires_grad=False)
        layers: list[nn.Module] = []
        for number in (0, 2, 4, 6):
            weight, bias = dense[f"deep__layers__{number}__weight"], dense[f"deep__layers__{number}__bias"]
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.load_state_dict({"weight": weight, "bias": bias})
            layers += [layer, nn.ReLU()]
        self.deep = nn.Sequential(*layers[:-1])

    def forward(self, places: Tensor) -> Tensor:
        """Return probabilities (B,) for places of rows (B, 26)."""
        embedded = nn.functional.embedding(places, self.rows)
        factors = embedded[:, :, 1:]
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)
        return torch.sigmoid(embedded[:, :, 0].sum(1) + pairs + self.deep(factors.flatten(1)).squeeze(1))


class Scorer:
    """Answers bodies of rank requests.

    Args:
        folder: What `model.export` wrote.
        compiled: Whether the network is compiled (`torch.compile`).
    """

    def __init__(self, folder: Path, *, compiled: bool = False) -> None:
        torch.set_num_threads(1)
        case = json.loads((folder / "case.json").read_text())
        names, own, count = case["names"], case["own"], case["rows"]
        rows = torch.from_numpy(np.load(folder / "rows.npy", mmap_mode="c"))
        with np.load(folder / "dense.npz") as arrays:
            dense = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        self.network = DeepFM(rows, dense).eval()
        self.run = torch.compile(self.network, dynamic=False) if compiled else self.network
        self._own, self._user = itemgetter(*names[:own]), itemgetter(*names[own:])
        self._width = own
        self._starts = np.arange(len(names), dtype=np.int64) * count

        self._sample = (folder / "sample.json").read_bytes()

    def warm_up(self) -> None:
        """Answer a request nobody sent: compiling takes a while."""
        for _ in range(3):
            self.answer(self._sample)

    def answer(self, body: bytes) -> bytes:
        """Return the answer to one request."""
        asked = orjson.loads(body)
        candidates = asked["candidates"]
        ids = np.empty((len(candidates), len(self._starts)), np.int64)
        ids[:, : self._width] = list(map(self._own, candidates))
        ids[:, self._width :] = self._user(asked["user"])
        ids += self._starts
        with torch.inference_mode():
            scores = self.run(torch.from_numpy(ids)).numpy()
        order = np.argsort(-scores, kind="stable")
        items = [candidates[place]["item"] for place in order.tolist()]
        content = {"key": asked.get("key") or uuid.uuid4().hex, "version": 0, "scores": scores, "order": order,
                   "items": items}  # fmt: skip
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
