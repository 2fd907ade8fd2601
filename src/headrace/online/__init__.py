"""The composition of an online ranker: from one configuration to parts, to one process, or to four."""

from headrace.online.build import Serving, open_learner, open_serving, open_tables
from headrace.online.changes import Following
from headrace.online.config import ModelBuilder, OnlineConfig, Player, TableSettings
from headrace.online.embedded import Embedded
from headrace.online.erase import open_book, user_columns
from headrace.online.erase_rest import finish_erasures
from headrace.online.export import export_log
from headrace.online.feed import Feeder, FeedProgress
from headrace.online.labelling import Labelling, LabellingConfig, labelling_schema
from headrace.online.language_build import open_language_learner, open_language_predictor
from headrace.online.language_config import LanguageConfig, Rewards, Rollouts
from headrace.online.language_roles import run_generator, run_language_learner, run_language_publisher
from headrace.online.language_server import run_language_server, run_rollouts
from headrace.online.layout import ROLES, RunFolder
from headrace.online.logs import open_log
from headrace.online.offline import compare_source, evaluate_source, newest_predictor, predict_file, request_file
from headrace.online.recipe import build, find_recipe, parameters
from headrace.online.recommending import open_recommender, open_stage, with_items
from headrace.online.recording import Recording
from headrace.online.rewarded import RewardedConfig, RewardedRun
from headrace.online.rewarded_trial import Trial, judged_policy, tried
from headrace.online.roles import run_joiner, run_learner, run_publisher
from headrace.online.server import run_server
from headrace.online.summary import close_events, deep, summarise
from headrace.online.supervisor import Supervisor
from headrace.online.traces import Scan, find_traces
from headrace.online.trimming import LogRetention, LogTrimmer, TrimmedExamples, keep_for
from headrace.online.writing import Corpus, Writing, WritingConfig

__all__ = [
    "ROLES",
    "Corpus",
    "Embedded",
    "FeedProgress",
    "Feeder",
    "Following",
    "Labelling",
    "LabellingConfig",
    "LanguageConfig",
    "LogRetention",
    "LogTrimmer",
    "ModelBuilder",
    "OnlineConfig",
    "Player",
    "Recording",
    "RewardedConfig",
    "RewardedRun",
    "Rewards",
    "Rollouts",
    "RunFolder",
    "Scan",
    "Serving",
    "Supervisor",
    "TableSettings",
    "Trial",
    "TrimmedExamples",
    "Writing",
    "WritingConfig",
    "build",
    "close_events",
    "compare_source",
    "deep",
    "evaluate_source",
    "export_log",
    "find_recipe",
    "find_traces",
    "finish_erasures",
    "judged_policy",
    "keep_for",
    "labelling_schema",
    "newest_predictor",
    "open_book",
    "open_language_learner",
    "open_language_predictor",
    "open_learner",
    "open_log",
    "open_recommender",
    "open_serving",
    "open_stage",
    "open_tables",
    "parameters",
    "predict_file",
    "request_file",
    "run_generator",
    "run_joiner",
    "run_language_learner",
    "run_language_publisher",
    "run_language_server",
    "run_learner",
    "run_publisher",
    "run_rollouts",
    "run_server",
    "summarise",
    "tried",
    "user_columns",
    "with_items",
]
