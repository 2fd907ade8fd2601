"""Embedding tables: collisionless, with row rules, admission, expiry, budgets, change history and snapshots.

`open_table` gives the native table, or the reference in Python with one warning where there is none.
"""

from headrace.store.admission import AdmitAll, AdmitCount, AdmitProbability, AdmitSketch
from headrace.store.cache import TierStats, memory_for
from headrace.store.capacity import bytes_for, capacity_rows
from headrace.store.collection import EmbeddingCollection, FeatureLookup
from headrace.store.eviction import Expiry, expire
from headrace.store.initial import Constant, InitialRow, Normal, Uniform, Zeros
from headrace.store.notices import fallbacks
from headrace.store.ranks import Ranks
from headrace.store.reference import ReferenceTable
from headrace.store.row_rules import FTRL, SGD, Adagrad, Momentum, RowRule
from headrace.store.row_rules_adam import Adam, AdamW
from headrace.store.row_rules_whole import GroupFTRL, RowWiseAdagrad
from headrace.store.sharded import ShardedTable
from headrace.store.shards import BUCKETS, bucket_of, reshard, shard_of
from headrace.store.snapshot import read_snapshot, write_snapshot
from headrace.store.storage import LFU, LRU, Disk, Storage
from headrace.store.table import NativeTable, open_table
from headrace.store.table_config import Clipping, TableConfig, TableStats
from headrace.store.table_files import Saving, TableFile, begin_save, inspect_table_file, load_table, save_table

__all__ = [
    "BUCKETS",
    "FTRL",
    "LFU",
    "LRU",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "AdmitAll",
    "AdmitCount",
    "AdmitProbability",
    "AdmitSketch",
    "Clipping",
    "Constant",
    "Disk",
    "EmbeddingCollection",
    "Expiry",
    "FeatureLookup",
    "GroupFTRL",
    "InitialRow",
    "Momentum",
    "NativeTable",
    "Normal",
    "Ranks",
    "ReferenceTable",
    "RowRule",
    "RowWiseAdagrad",
    "Saving",
    "ShardedTable",
    "Storage",
    "TableConfig",
    "TableFile",
    "TableStats",
    "TierStats",
    "Uniform",
    "Zeros",
    "begin_save",
    "bucket_of",
    "bytes_for",
    "capacity_rows",
    "expire",
    "fallbacks",
    "inspect_table_file",
    "load_table",
    "memory_for",
    "open_table",
    "read_snapshot",
    "reshard",
    "save_table",
    "shard_of",
    "write_snapshot",
]
