"""Embedding tables: collisionless, with row rules, admission, expiry, change history and snapshots.

`open_table` gives the native table, or the reference in Python with one warning where there is none.
"""

from headrace.store.admission import AdmitAll, AdmitCount, AdmitProbability
from headrace.store.collection import EmbeddingCollection, FeatureLookup
from headrace.store.eviction import Expiry, expire
from headrace.store.initial import Constant, InitialRow, Normal, Uniform, Zeros
from headrace.store.notices import fallbacks
from headrace.store.reference import ReferenceTable
from headrace.store.row_rules import FTRL, SGD, Adagrad, Adam, RowRule
from headrace.store.snapshot import read_snapshot, write_snapshot
from headrace.store.table import NativeTable, open_table
from headrace.store.table_config import TableConfig, TableStats

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "AdmitAll",
    "AdmitCount",
    "AdmitProbability",
    "Constant",
    "EmbeddingCollection",
    "Expiry",
    "FeatureLookup",
    "InitialRow",
    "NativeTable",
    "Normal",
    "ReferenceTable",
    "RowRule",
    "TableConfig",
    "TableStats",
    "Uniform",
    "Zeros",
    "expire",
    "fallbacks",
    "open_table",
    "read_snapshot",
    "write_snapshot",
]
