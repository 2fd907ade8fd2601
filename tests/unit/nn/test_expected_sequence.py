"""The same answers as other implementations give with the same weights; `scripts/expected_sequence.py` wrote theirs.

DLRM, MaskNet, FinalMLP, GDCN, DIN, DIEN and BST are compared with FuxiCTR, SASRec with SASRec.pytorch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from headrace.nn.bst import BST, BSTSettings
from headrace.nn.dien import DIEN, DIENSettings
from headrace.nn.din import DIN, DINSettings
from headrace.nn.dlrm import DLRM
from headrace.nn.finalmlp import FinalMLP, Streams
from headrace.nn.gdcn import GDCN, GatedCross
from headrace.nn.masknet import MaskNet, Masks
from headrace.nn.sasrec import SASRec, SASRecSettings
from headrace.nn.sequence_attention import SelfAttention
from headrace.types import Batch, Jagged

FOLDER = Path(__file__).parent / "expected"
FIELDS, NUMBERS, PAIRS = ("user", "item", "place"), ("price", "age"), {"past": "item"}


class Expected:
    """One file: weights under their own names, inputs, and logits."""

    def __init__(self, name: str) -> None:
        content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        self.weights = {key: torch.tensor(value, dtype=torch.float32) for key, value in content["weights"].items()}
        self.inputs = {key: torch.tensor(value) for key, value in content["inputs"].items()}
        self.logits = torch.tensor(content["logit"], dtype=torch.float64)

    def weight(self, name: str) -> Tensor:
        return self.weights[name]

    def layers(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of the linear layers of an MLP, in order."""
        prefix = f"{name}."
        places = sorted({int(key.removeprefix(prefix).split(".")[0]) for key in self.weights if key.startswith(prefix)})
        names = [f"{prefix}{place}" for place in places if f"{prefix}{place}.bias" in self.weights]
        return [(self.weight(f"{one}.weight"), self.weight(f"{one}.bias")) for one in names]

    def batch(self) -> Batch:
        """The inputs; padded histories become jagged ones."""
        inputs, rows, ids = self.inputs, len(self.inputs["item"]), {}
        for name in ("user", "item", "place", "past", "refused"):
            if name in inputs:
                grid = inputs[name].reshape(rows, -1)
                lengths = (grid != 0).sum(1)
                ids[name] = Jagged(grid[grid != 0], torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
        dense = torch.stack([inputs[name].float() for name in NUMBERS if name in inputs] or [torch.zeros(0, rows)], 1)
        zeros = torch.zeros(rows, dtype=torch.int64)
        return Batch(
            ids=ids, dense=dense.reshape(rows, -1), labels=zeros.float(), weights=torch.ones(rows), event_times=zeros,
            accepted_times=zeros, example_ids=zeros, predictions=torch.full((rows,), math.nan), versions=zeros - 1,
            sample_rates=torch.ones(rows),
        )  # fmt: skip


class Rows(nn.Module):
    """The other implementation's embeddings; histories and negatives read the item's."""

    def __init__(self, expected: Expected, prefix: str) -> None:
        super().__init__()
        self.tables = {
            key.removeprefix(f"{prefix}.").removesuffix(".weight"): value
            for key, value in expected.weights.items() if key.startswith(f"{prefix}.")
        }  # fmt: skip

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        shared = {name: name if name in FIELDS else "item" for name in batch.ids}
        width = self.tables["item"].shape[1]
        none = {name: torch.zeros(0, width) for name in (*FIELDS, "past")} if not len(batch) else {}
        return none | {name: self.tables[table][batch.ids[name].values] for name, table in shared.items()}


@torch.no_grad()
def fill(layers: nn.Module, values: list[tuple[Tensor, Tensor]]) -> None:
    """Copy weights and biases into the linear layers of a module, in order."""
    own = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    for layer, (weight, bias) in zip(own, values, strict=True):
        layer.weight.copy_(weight.squeeze(-1) if weight.dim() == 3 else weight)
        layer.bias.copy_(bias)


@torch.no_grad()
def copy(pairs: dict[Tensor, Tensor]) -> None:
    for own, value in pairs.items():
        own.copy_(value.reshape(own.shape))


def same(model: nn.Module, expected: Expected) -> None:
    torch.testing.assert_close(model.eval()(expected.batch()).double(), expected.logits, rtol=1e-5, atol=1e-5)


ZOO = "embedding_layer.embedding_layer.embedding_layers"


def test_dlrm() -> None:
    expected = Expected("dlrm")
    model = DLRM(Rows(expected, ZOO), FIELDS, 2, (5, 4), bottom=(6,))
    fill(model.bottom, expected.layers("bottom_mlp.mlp"))
    fill(model.top, expected.layers("top_mlp.mlp"))
    same(model, expected)


@pytest.mark.parametrize(("name", "masks"), [("masknet", Masks(ratio=0.5)),
                                             ("masknet_parallel", Masks(parallel=2, width=6))])  # fmt: skip
def test_masknet(name: str, masks: Masks) -> None:
    expected = Expected(name)
    model = MaskNet(Rows(expected, ZOO), FIELDS, 2, (5, 4), masks=masks)
    numbers = torch.stack([expected.weight(f"{ZOO}.{number}.weight").squeeze(1) for number in NUMBERS])
    norms = [torch.stack([expected.weight(f"emb_norm.{place}.{part}") for place in range(5)])
             for part in ("weight", "bias")]  # fmt: skip
    copy({model.fields.dense_factors: numbers, model.norm_weight: norms[0], model.norm_bias: norms[1]})
    for place, block in enumerate(model.blocks):
        theirs = f"mask_net.mask_blocks.{place}"
        fill(block.mask, expected.layers(f"{theirs}.mask_layer"))
        hidden = [expected.weight(f"{theirs}.hidden_layer.{part}") for part in ("0.weight", "1.weight", "1.bias")]
        copy(dict(zip((block.layer.weight, block.norm.weight, block.norm.bias), hidden, strict=True)))
    fill(model.deep, expected.layers("mask_net.dnn.mlp" if masks.parallel else "mask_net.fc"))
    same(model, expected)


def test_finalmlp() -> None:
    expected = Expected("finalmlp")
    streams = Streams(second=(6,), heads=2, gate=(3,))
    model = FinalMLP(Rows(expected, ZOO), FIELDS, 0, (5, 4), streams=streams)
    for place, gate in enumerate(model.gates, start=1):
        fill(gate.layers, expected.layers(f"fs_module.fs{place}_gate.mlp"))
        copy({gate.context: expected.weight(f"fs_module.fs{place}_ctx_bias")})
    fill(model.first, expected.layers("mlp1.mlp"))
    fill(model.second, expected.layers("mlp2.mlp"))
    own, theirs = model.fusion, {part: expected.weight(f"fusion_module.{part}") for part in (
        "w_x.weight", "w_y.weight", "w_xy", "w_x.bias", "w_y.bias")}  # fmt: skip
    copy({own.first.weight: theirs["w_x.weight"], own.second.weight: theirs["w_y.weight"],
          own.bilinear: theirs["w_xy"], own.first.bias: theirs["w_x.bias"] + theirs["w_y.bias"]})  # fmt: skip
    same(model, expected)


@pytest.mark.parametrize("parallel", [False, True])
def test_gdcn(parallel: bool) -> None:
    expected = Expected("gdcn_parallel" if parallel else "gdcn")
    model = GDCN(Rows(expected, ZOO), FIELDS, 0, (5, 4), cross=GatedCross(layers=2, parallel=parallel))
    for place, layer in enumerate(model.cross):
        copy({layer.cross.weight: expected.weight(f"cross_net.w.{place}.weight"),
              layer.cross.bias: expected.weight(f"cross_net.b.{place}"),
              layer.gate.weight: expected.weight(f"cross_net.wg.{place}.weight")})  # fmt: skip
    deep = expected.layers("dnn.mlp")
    fill(model.deep, deep if parallel else deep[:-1])
    fill(model.output, [(expected.weight("fc.weight"), expected.weight("fc.bias"))] if parallel else deep[-1:])
    same(model, expected)


# ------------------------------------------------------------------------------------------------------- histories


@pytest.mark.parametrize("softmax", [False, True])
def test_din(softmax: bool) -> None:
    expected = Expected("din_softmax" if softmax else "din")
    rows = Rows(expected, "embedding_layer.embedding_layers")
    model = DIN(rows, ("user", "item", "past"), 0, (5, 4), pairs=PAIRS,
                settings=DINSettings(attention=(4,), softmax=softmax))  # fmt: skip
    unit, theirs = model.units[0], "attention_layers.0.attention_layer.mlp"
    fill(unit, [(expected.weight(f"{theirs}.{place}.weight"), expected.weight(f"{theirs}.{place}.bias"))
                for place in (0, 2)])  # fmt: skip
    dice = unit.layers[1]
    copy({dice.slope: expected.weight(f"{theirs}.1.alpha"), dice.mean: expected.weight(f"{theirs}.1.bn.running_mean"),
          dice.variance: expected.weight(f"{theirs}.1.bn.running_var")})  # fmt: skip
    fill(model.deep, expected.layers("dnn.mlp"))
    same(model, expected)


def test_dien_and_its_auxiliary_loss() -> None:
    expected = Expected("dien")
    rows = Rows(expected, "embedding_layer.embedding_layers")
    model = DIEN(rows, ("past", "user", "item"), 0, (5, 4), pairs=PAIRS,
                 settings=DIENSettings(auxiliary=(4,), negatives={"past": "refused"}))  # fmt: skip
    part, prefix = model.interests[0], "extraction_modules.0"
    copy({own: expected.weight(f"{prefix}.{name}") for name, own in part.extraction.cell.named_parameters()})
    copy({part.bilinear: expected.weight("attention_modules.0.W_kernel")})
    cell = "evolving_modules.0.gru_cell"
    fill(part.evolution, [(expected.weight(f"{cell}.{name}.weight"), expected.weight(f"{cell}.{name}.bias"))
                          for name in ("x2h", "h2h")])  # fmt: skip
    fill(model.auxiliaries, expected.layers("aux_net.mlp"))
    fill(model.deep, expected.layers("dnn.mlp"))
    same(model, expected)
    _, loss = model.forward_with_auxiliary(expected.batch())
    torch.testing.assert_close(loss, expected.inputs["auxiliary"], rtol=1e-5, atol=1e-5)


def fill_attention(own: SelfAttention, expected: Expected, theirs: str) -> None:
    parts = [*zip(expected.weight(f"{theirs}.in_proj_weight").chunk(3),
                  expected.weight(f"{theirs}.in_proj_bias").chunk(3), strict=True)]  # fmt: skip
    fill(own, [*parts, (expected.weight(f"{theirs}.out_proj.weight"), expected.weight(f"{theirs}.out_proj.bias"))])


@pytest.mark.parametrize(("name", "settings"), [
    ("bst", BSTSettings(blocks=2, heads=2, max_length=5)),
    ("bst_target", BSTSettings(heads=4, max_length=5, pooling="target")),
])  # fmt: skip
def test_bst(name: str, settings: BSTSettings) -> None:
    expected = Expected(name)
    rows = Rows(expected, "embedding_layer.embedding_layers")
    model = BST(rows, ("user", "item", "past"), 0, (5, 4), pairs=PAIRS, settings=settings)
    encoder = model.encoders[0]
    theirs = expected.weight("transformer_encoders.0.position_emb")
    copy({encoder.positions: theirs.flip(0)})  # theirs end at the target
    for place, block in enumerate(encoder.blocks):
        theirs = f"transformer_encoders.0.transformer_blocks.{place}"
        fill_attention(block.attention, expected, f"{theirs}.attention")
        fill(block.forward_layers, expected.layers(f"{theirs}.ffn"))
        for own, norm in ((block.attention_norm, "layer_norm1"), (block.forward_norm, "layer_norm2")):
            copy({own.weight: expected.weight(f"{theirs}.{norm}.weight"),
                  own.bias: expected.weight(f"{theirs}.{norm}.bias")})  # fmt: skip
    fill(model.deep, expected.layers("dnn.mlp"))
    same(model, expected)


def test_sasrec() -> None:
    expected = Expected("sasrec")
    rows = Rows(expected, "none")
    rows.tables = {"item": expected.weight("item_emb.weight")}
    model = SASRec(rows, ("item", "past"), pairs=PAIRS, settings=SASRecSettings(blocks=2, heads=2, max_length=5))
    copy({model.positions: expected.weight("pos_emb.weight")[1:]})
    for place, block in enumerate(model.blocks):
        fill_attention(block.attention, expected, f"attention_layers.{place}")
        convolutions = [f"forward_layers.{place}.conv{number}" for number in (1, 2)]
        fill(block.forward_layers, [(expected.weight(f"{one}.weight"), expected.weight(f"{one}.bias"))
                                    for one in convolutions])  # fmt: skip
        for own, norm in ((block.attention_norm, "attention_layernorms"), (block.forward_norm, "forward_layernorms")):
            copy({own.weight: expected.weight(f"{norm}.{place}.weight"),
                  own.bias: expected.weight(f"{norm}.{place}.bias")})  # fmt: skip
    copy({model.last_norm.weight: expected.weight("last_layernorm.weight"),
          model.last_norm.bias: expected.weight("last_layernorm.bias")})  # fmt: skip
    same(model, expected)
