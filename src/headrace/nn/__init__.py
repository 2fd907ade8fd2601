"""Models in pure torch, one family a file: plain modules over embedded features; no table in sight."""

from __future__ import annotations

from headrace.nn.actor_critic import ActorCritic, ScoreModel
from headrace.nn.autoint import AutoInt, FieldAttention
from headrace.nn.bayesian_flow import BayesianFlow, ContinuousFlow, Denoiser, DiscreteFlow, Flow
from headrace.nn.bst import BST, BSTSettings
from headrace.nn.causal import CausalTransformer
from headrace.nn.causal_decoder import PackedDecoder, PackedDecoding
from headrace.nn.causal_files import save_causal
from headrace.nn.causal_foreign import ForeignDecoder, ForeignDecoding, TransformersCausal, left_padded, load_causal
from headrace.nn.causal_settings import CausalModel, CausalSettings, Decoder, Decoding
from headrace.nn.ctr import DeepFM, LogisticRegression
from headrace.nn.dcn import DCN, CrossSettings, DCNv2
from headrace.nn.dien import DIEN, DIENSettings
from headrace.nn.din import DIN, DINSettings
from headrace.nn.dlrm import DLRM
from headrace.nn.esmm import ESMM
from headrace.nn.ffm import FFM, ffm_width
from headrace.nn.fields import FieldInputs, Fields, FlatInputs
from headrace.nn.finalmlp import FinalMLP, Streams
from headrace.nn.flow_denoisers import MarkovDenoiser, NormalDenoiser, ResidualDenoiser, SequenceDenoiser
from headrace.nn.fm import FM
from headrace.nn.frequencies import KnownFrequencies, StreamingFrequencies
from headrace.nn.fwfm import FwFM
from headrace.nn.gdcn import GDCN, GatedCross
from headrace.nn.grouped import side_by_side
from headrace.nn.last_layer import LastLayerPosterior
from headrace.nn.layers import (
    ACTIVATIONS,
    MLP,
    BatchNorm,
    Hidden,
    InputAxis,
    InputLayout,
    embedded,
    empty_embeddings,
    generator,
    hidden_layers,
    linear,
    pairwise_interactions,
)
from headrace.nn.linear_tasks import LinearTasks
from headrace.nn.lora import LoRASettings, merge_lora, with_lora
from headrace.nn.lora_files import load_lora, save_lora
from headrace.nn.masknet import MaskNet, Masks
from headrace.nn.multi_task import PLE, MMoE, SharedBottom
from headrace.nn.pair_correlation import (
    Correlated,
    CorrelatedVAE,
    Latents,
    PairCorrelation,
    PairSettings,
    expected_distance,
)
from headrace.nn.position import PositionTower
from headrace.nn.probability import product_logit
from headrace.nn.sasrec import SASRec, SASRecSettings, Transitions
from headrace.nn.tasks import GatedTasks, LayeredTasks, LearnedWeights, Tasks
from headrace.nn.two_stage import TwoStage
from headrace.nn.two_tower import TowerInputs, Towers, TwoTower
from headrace.nn.vae import Gaussian, MultVAE, VAESettings, Variational
from headrace.nn.wide_deep import WideDeep
from headrace.nn.xdeepfm import CompressedInteractions, XDeepFM

__all__ = [
    "ACTIVATIONS",
    "BST",
    "DCN",
    "DIEN",
    "DIN",
    "DLRM",
    "ESMM",
    "FFM",
    "FM",
    "GDCN",
    "MLP",
    "PLE",
    "ActorCritic",
    "AutoInt",
    "BSTSettings",
    "BatchNorm",
    "BayesianFlow",
    "CausalModel",
    "CausalSettings",
    "CausalTransformer",
    "CompressedInteractions",
    "ContinuousFlow",
    "Correlated",
    "CorrelatedVAE",
    "CrossSettings",
    "DCNv2",
    "DIENSettings",
    "DINSettings",
    "Decoder",
    "Decoding",
    "DeepFM",
    "Denoiser",
    "DiscreteFlow",
    "FieldAttention",
    "FieldInputs",
    "Fields",
    "FinalMLP",
    "FlatInputs",
    "Flow",
    "ForeignDecoder",
    "ForeignDecoding",
    "FwFM",
    "GatedCross",
    "GatedTasks",
    "Gaussian",
    "Hidden",
    "InputAxis",
    "InputLayout",
    "KnownFrequencies",
    "LastLayerPosterior",
    "Latents",
    "LayeredTasks",
    "LearnedWeights",
    "LinearTasks",
    "LoRASettings",
    "LogisticRegression",
    "MMoE",
    "MarkovDenoiser",
    "MaskNet",
    "Masks",
    "MultVAE",
    "NormalDenoiser",
    "PackedDecoder",
    "PackedDecoding",
    "PairCorrelation",
    "PairSettings",
    "PositionTower",
    "ResidualDenoiser",
    "SASRec",
    "SASRecSettings",
    "ScoreModel",
    "SequenceDenoiser",
    "SharedBottom",
    "StreamingFrequencies",
    "Streams",
    "Tasks",
    "TowerInputs",
    "Towers",
    "TransformersCausal",
    "Transitions",
    "TwoStage",
    "TwoTower",
    "VAESettings",
    "Variational",
    "WideDeep",
    "XDeepFM",
    "embedded",
    "empty_embeddings",
    "expected_distance",
    "ffm_width",
    "generator",
    "hidden_layers",
    "left_padded",
    "linear",
    "load_causal",
    "load_lora",
    "merge_lora",
    "pairwise_interactions",
    "product_logit",
    "save_causal",
    "save_lora",
    "side_by_side",
    "with_lora",
]
