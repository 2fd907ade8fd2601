"""Objectives: a method's loss, stateless, as a frozen dataclass that is called with (model, batch)."""

from __future__ import annotations

from headrace.objectives.advantages import generalised_advantages, kl_per_token, leave_one_out, token_rewards, whitened
from headrace.objectives.auxiliary import WithAuxiliary
from headrace.objectives.bayesian_flow import FlowLoss
from headrace.objectives.candidates import with_candidates, with_item_rows
from headrace.objectives.correlated_elbo import CorrelatedELBO, mutual_information, pair_terms, with_pairs
from headrace.objectives.delayed import DelayedLogLoss
from headrace.objectives.elbo import ELBO, gaussian_kl, log_likelihood
from headrace.objectives.language import NextToken
from headrace.objectives.multi_task import ESMMLoss, MultiTask
from headrace.objectives.policy_gradient import PPO, Reinforce
from headrace.objectives.preference import DPO, BradleyTerry, with_reference
from headrace.objectives.retrieval import NextItem, SampledSoftmax
from headrace.objectives.sampling import (
    SamplingCorrection,
    Where,
    check_applied_once,
    correct_logit,
    correct_probability,
)
from headrace.objectives.supervised import LogLoss
from headrace.objectives.two_stage import TwoStageLoss

__all__ = [
    "DPO",
    "ELBO",
    "PPO",
    "BradleyTerry",
    "CorrelatedELBO",
    "DelayedLogLoss",
    "ESMMLoss",
    "FlowLoss",
    "LogLoss",
    "MultiTask",
    "NextItem",
    "NextToken",
    "Reinforce",
    "SampledSoftmax",
    "SamplingCorrection",
    "TwoStageLoss",
    "Where",
    "WithAuxiliary",
    "check_applied_once",
    "correct_logit",
    "correct_probability",
    "gaussian_kl",
    "generalised_advantages",
    "kl_per_token",
    "leave_one_out",
    "log_likelihood",
    "mutual_information",
    "pair_terms",
    "token_rewards",
    "whitened",
    "with_candidates",
    "with_item_rows",
    "with_pairs",
    "with_reference",
]
