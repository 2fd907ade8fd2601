"""Rankers offline: fitted over epochs, chosen by validation, judged once, and published as any run is."""

from headrace.ranking.config import DenseOptimizer, FitConfig, as_online
from headrace.ranking.correlated import CorrelatedConfig, CorrelatedFit
from headrace.ranking.examples import ExampleSet, InMemory, Splits, cut
from headrace.ranking.fit import Evaluation, FitProgress, RankerFit, fit_ranker, judge_published, open_ranker
from headrace.ranking.judge import Judged, judge
from headrace.ranking.network import Network
from headrace.ranking.raw_files import FileSplits

__all__ = [
    "CorrelatedConfig",
    "CorrelatedFit",
    "DenseOptimizer",
    "Evaluation",
    "ExampleSet",
    "FileSplits",
    "FitConfig",
    "FitProgress",
    "InMemory",
    "Judged",
    "Network",
    "RankerFit",
    "Splits",
    "as_online",
    "cut",
    "fit_ranker",
    "judge",
    "judge_published",
    "open_ranker",
]
