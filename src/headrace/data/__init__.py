"""Events in, batches out: schemas, files, logs, joins and data sets."""

from headrace.data.collate import Collator, collate
from headrace.data.evolution import Evolution, plan
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
from headrace.data.join import EventJoin, EventJoiner, JoinConfig, JoinStats
from headrace.data.layout import Layout
from headrace.data.log import EmbeddedLog, Entry, LogSource
from headrace.data.source import FileSource, MemorySource, TableSource

__all__ = [
    "Collator",
    "CrossFeature",
    "DenseFeature",
    "EmbeddedLog",
    "Entry",
    "EventJoin",
    "EventJoiner",
    "Evolution",
    "Feature",
    "FileSource",
    "IdFeature",
    "JoinConfig",
    "JoinStats",
    "Label",
    "Layout",
    "LogSource",
    "MemorySource",
    "MultiIdFeature",
    "Scenario",
    "Schema",
    "SequenceFeature",
    "TableSource",
    "TextFeature",
    "collate",
    "describe",
    "example_ids",
    "hash_strings",
    "plan",
    "sha256",
]
