"""Judging: metrics, their uncertainty, comparisons, progressive validation, claims of papers, and reports."""

from headrace.evaluate.accumulate import StreamingEvaluation
from headrace.evaluate.arms import ArmComparison, ArmDifference, ArmReading, ArmSummary
from headrace.evaluate.bootstrap import bootstrap_interval
from headrace.evaluate.catalogue import catalogue_values, mean_over_users
from headrace.evaluate.claims import ClaimRecord, ClaimTable, Estimate, Goal, mean_over_blocks, mean_over_seeds
from headrace.evaluate.experiment import Exposures, always_valid, compare_arms
from headrace.evaluate.frontier import Frontier, at_matched_distance
from headrace.evaluate.grouped_stream import StreamingGroups
from headrace.evaluate.intervals import Interval, auc_difference, auc_interval, hanley_mcneil_interval
from headrace.evaluate.judge import Judging, compare, evaluate
from headrace.evaluate.language_tasks import Choice, accuracy, choices, cross_entropy, general_ability
from headrace.evaluate.link import LinkRanks, link_ranks, ncrr
from headrace.evaluate.metrics import (
    auc,
    average_precision,
    calibration_ratio,
    expected_calibration_error,
    grouped_auc,
    log_loss,
    normalised_entropy,
    relative_information_gain,
)
from headrace.evaluate.off_policy import evaluate_policy
from headrace.evaluate.page import Plot
from headrace.evaluate.policies import (
    CrossFitted,
    PropensityCheck,
    RankingTarget,
    check_propensities,
    cross_fitted_rates,
    ranking_target,
)
from headrace.evaluate.policy_value import OffPolicy, PolicyValue, Weights
from headrace.evaluate.progressive import ProgressiveMetric
from headrace.evaluate.ranking import hit_rate, mean_average_precision, mean_reciprocal_rank, ndcg, recall
from headrace.evaluate.report import Section, history_plots, write_report
from headrace.evaluate.significance import SeedComparison, compare_seeds, paired_t, sign_flip, wilcoxon
from headrace.evaluate.sizes import run_size
from headrace.evaluate.streaming import StreamingAUC, Tally
from headrace.evaluate.verdict import Comparison, Difference, Evaluation, Slice

__all__ = [
    "ArmComparison",
    "ArmDifference",
    "ArmReading",
    "ArmSummary",
    "Choice",
    "ClaimRecord",
    "ClaimTable",
    "Comparison",
    "CrossFitted",
    "Difference",
    "Estimate",
    "Evaluation",
    "Exposures",
    "Frontier",
    "Goal",
    "Interval",
    "Judging",
    "LinkRanks",
    "OffPolicy",
    "Plot",
    "PolicyValue",
    "ProgressiveMetric",
    "PropensityCheck",
    "RankingTarget",
    "Section",
    "SeedComparison",
    "Slice",
    "StreamingAUC",
    "StreamingEvaluation",
    "StreamingGroups",
    "Tally",
    "Weights",
    "accuracy",
    "always_valid",
    "at_matched_distance",
    "auc",
    "auc_difference",
    "auc_interval",
    "average_precision",
    "bootstrap_interval",
    "calibration_ratio",
    "catalogue_values",
    "check_propensities",
    "choices",
    "compare",
    "compare_arms",
    "compare_seeds",
    "cross_entropy",
    "cross_fitted_rates",
    "evaluate",
    "evaluate_policy",
    "expected_calibration_error",
    "general_ability",
    "grouped_auc",
    "hanley_mcneil_interval",
    "history_plots",
    "hit_rate",
    "link_ranks",
    "log_loss",
    "mean_average_precision",
    "mean_over_blocks",
    "mean_over_seeds",
    "mean_over_users",
    "mean_reciprocal_rank",
    "ncrr",
    "ndcg",
    "normalised_entropy",
    "paired_t",
    "ranking_target",
    "recall",
    "relative_information_gain",
    "run_size",
    "sign_flip",
    "wilcoxon",
    "write_report",
]
