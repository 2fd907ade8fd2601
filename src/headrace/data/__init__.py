"""Events in, batches out: schemas, files, logs, joins and data sets."""

from headrace.data.adaptive_weights import AdaptiveWeights
from headrace.data.collate import Collator, collate
from headrace.data.completions import (
    TokenCollator,
    completion_batch,
    preference_batch,
    text_batch,
    text_examples,
    token_batch,
)
from headrace.data.erasure_book import Erasure, ErasureBook
from headrace.data.evolution import Evolution, plan
from headrace.data.example_files import ExampleFiles
from headrace.data.examples import Examples
from headrace.data.features import (
    CrossFeature,
    DenseFeature,
    Feature,
    IdFeature,
    Label,
    MultiIdFeature,
    Scenario,
    Schema,
    SequenceFeature,
    TextFeature,
    example_ids,
    hash_strings,
)
from headrace.data.files import describe, sha256
from headrace.data.graph import Graph, PairDraw, PairSampler
from headrace.data.join import EventJoin, EventJoiner, JoinConfig, JoinStats
from headrace.data.layout import Layout
from headrace.data.log import EmbeddedLog, Entry, LogSource
from headrace.data.passages import demonstrations, passages, preferences, prompts, rows_of_tokens
from headrace.data.prepare import prepare
from headrace.data.prepare_columns import Categories, Category, History, LogBins, Number, Preparation, QuantileBins
from headrace.data.prepare_split import FoldSplit, HashSplit, OrderSplit, RandomSplit, TimeSplit
from headrace.data.prepare_statistics import PreparedStatistics
from headrace.data.prepared_batches import PreparedBatches
from headrace.data.prepared_files import PreparedData
from headrace.data.source import FileSource, MemorySource, TableSource
from headrace.data.spanning import (
    Forest,
    effective_resistances,
    maximum_forest,
    random_forests,
    rooted,
    spanning_weights,
)
from headrace.data.statistics_file import load_statistics, save_statistics
from headrace.data.subjects import ErasureConfig, UserColumns
from headrace.data.text import TextCodec, jagged
from headrace.data.token_columns import number_column, numbers_of, token_column, tokens_of
from headrace.data.tree_belief import tree_correlations, tree_distances
from headrace.data.votes import vote_batch

__all__ = [
    "AdaptiveWeights",
    "Categories",
    "Category",
    "Collator",
    "CrossFeature",
    "DenseFeature",
    "EmbeddedLog",
    "Entry",
    "Erasure",
    "ErasureBook",
    "ErasureConfig",
    "EventJoin",
    "EventJoiner",
    "Evolution",
    "ExampleFiles",
    "Examples",
    "Feature",
    "FileSource",
    "FoldSplit",
    "Forest",
    "Graph",
    "HashSplit",
    "History",
    "IdFeature",
    "JoinConfig",
    "JoinStats",
    "Label",
    "Layout",
    "LogBins",
    "LogSource",
    "MemorySource",
    "MultiIdFeature",
    "Number",
    "OrderSplit",
    "PairDraw",
    "PairSampler",
    "Preparation",
    "PreparedBatches",
    "PreparedData",
    "PreparedStatistics",
    "QuantileBins",
    "RandomSplit",
    "Scenario",
    "Schema",
    "SequenceFeature",
    "TableSource",
    "TextCodec",
    "TextFeature",
    "TimeSplit",
    "TokenCollator",
    "UserColumns",
    "collate",
    "completion_batch",
    "demonstrations",
    "describe",
    "effective_resistances",
    "example_ids",
    "hash_strings",
    "jagged",
    "load_statistics",
    "maximum_forest",
    "number_column",
    "numbers_of",
    "passages",
    "plan",
    "preference_batch",
    "preferences",
    "prepare",
    "prompts",
    "random_forests",
    "rooted",
    "rows_of_tokens",
    "save_statistics",
    "sha256",
    "spanning_weights",
    "text_batch",
    "text_examples",
    "token_batch",
    "token_column",
    "tokens_of",
    "tree_correlations",
    "tree_distances",
    "vote_batch",
]
