"""Judging: metrics, their uncertainty, progressive validation, claims of papers, and reports."""

from headrace.evaluate.claims import ClaimRecord, ClaimTable, Estimate, Goal, mean_over_blocks, mean_over_seeds
from headrace.evaluate.intervals import Interval, auc_difference, auc_interval, hanley_mcneil_interval
from headrace.evaluate.metrics import (
    auc,
    calibration_ratio,
    expected_calibration_error,
    grouped_auc,
    log_loss,
    normalised_entropy,
)
from headrace.evaluate.page import Plot
from headrace.evaluate.progressive import ProgressiveMetric
from headrace.evaluate.report import Section, history_plots, write_report
from headrace.evaluate.streaming import StreamingAUC, Tally

__all__ = [
    "ClaimRecord",
    "ClaimTable",
    "Estimate",
    "Goal",
    "Interval",
    "Plot",
    "ProgressiveMetric",
    "Section",
    "StreamingAUC",
    "Tally",
    "auc",
    "auc_difference",
    "auc_interval",
    "calibration_ratio",
    "expected_calibration_error",
    "grouped_auc",
    "hanley_mcneil_interval",
    "history_plots",
    "log_loss",
    "mean_over_blocks",
    "mean_over_seeds",
    "normalised_entropy",
    "write_report",
]
