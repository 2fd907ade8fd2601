"""TorchRec's managed collision (MCH) in front of FBGEMM: the peer that takes arbitrary ids, as ours does.

Of TorchRec's two kinds, MPZCH does not train on a CPU (`zero_collision_hash` answers "Expected readonly to be true,
but got false"), so this is the older one: ids sorted, looked up by bisection, admitted and evicted every
`EVICTION_INTERVAL` batches. `ManagedCollisionEmbeddingCollection` would feed a plain `nn.Embedding` without sparse
gradients; FBGEMM behind it is what TorchRec trains with, and much faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torchrec.modules.mc_modules import DistanceLFU_EvictionPolicy, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

from table_contenders.fbgemm import Fbgemm
from table_contenders.protocol import serve
from table_contenders.workload import Floats, Ids, Material, scrambled

EVICTION_INTERVAL = 1000
"""Batches between two rounds of admission and eviction; the more, the cheaper."""


class Collisions(Fbgemm):
    """FBGEMM behind one managed-collision module per feature."""

    SPARE = 1  # where ids without a place of their own meet

    def __init__(self, material: Material, options: Mapping[str, Any]) -> None:
        super().__init__(material, options)
        work = material.work
        self._modules = []
        known = torch.arange(work.rows_each).numpy()
        pattern = torch.from_numpy(material.rows(0, work.rows_each))
        for feature in range(work.features):
            module = MCHManagedCollisionModule(
                zch_size=work.rows_each + self.SPARE, device=torch.device("cpu"), eviction_interval=1,
                eviction_policy=DistanceLFU_EvictionPolicy(),
            )  # fmt: skip
            ids = _jagged(feature, torch.from_numpy(scrambled(known, feature)))
            module.profile(ids)
            module._eviction_interval = EVICTION_INTERVAL
            self._tables.split_embedding_weights()[feature][module.remap(ids)[f"f{feature}"].values()] = pattern
            self._modules.append(module)
        self._arbitrary = [
            [_jagged(feature, torch.from_numpy(scrambled(ids, feature))) for feature, ids in enumerate(batch)]
            for batch in material.ids
        ]

    def _forward(self, batch: int) -> torch.Tensor:
        places = []
        for feature, (module, ids) in enumerate(zip(self._modules, self._arbitrary[batch], strict=True)):
            if torch.is_grad_enabled():
                module.profile(ids)
            places.append(module.remap(ids)[f"f{feature}"].values())
        out: torch.Tensor = self._tables(torch.cat(places), self._offsets)
        return out

    def rows(self, feature: int, ids: Ids) -> Floats:
        """Return rows of one feature."""
        found = self._modules[feature].remap(_jagged(feature, torch.from_numpy(scrambled(ids, feature))))
        return super().rows(feature, found[f"f{feature}"].values().numpy())


def _jagged(feature: int, ids: torch.Tensor) -> dict[str, JaggedTensor]:
    return {f"f{feature}": JaggedTensor(values=ids, lengths=torch.ones(len(ids), dtype=torch.int32))}


if __name__ == "__main__":
    serve(Collisions)
