"""FuxiCTR prepares the same file: `python fuxictr_peer.py FILE FOLDER MIN_COUNT RESULT`, in the peers' environment.

Its own `FeatureProcessor` and `build_dataset`, with the preprocessing that it has for Criteo. Nothing of Headrace is
here.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
from fuxictr.preprocess import FeatureProcessor, build_dataset

INTEGERS = [f"I{number}" for number in range(1, 14)]
CATEGORIES = [f"C{number}" for number in range(1, 27)]
_scan_csv = pl.scan_csv


def scan_csv(*arguments: Any, dtypes: Any = None, **more: Any) -> Any:
    """Call polars by the name that it now has for an argument; FuxiCTR 2.3.10 knows the former one only."""
    return _scan_csv(*arguments, schema_overrides=dtypes, **more)


class CriteoProcessor(FeatureProcessor):  # type: ignore[misc]
    """The processor with Criteo's bins, as FuxiCTR's own data set module has them."""

    def convert_to_bucket(self, name: str) -> Any:
        """Return the expression of the bins of a number."""
        value = pl.col(name)
        return pl.when(value > 2).then(value.log().pow(2).floor()).otherwise(value).cast(pl.Int32)


def main() -> None:
    """Measure and write."""
    file, folder, min_count, result = sys.argv[1:]
    pl.scan_csv = scan_csv
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)
    columns = [
        {"name": INTEGERS, "active": True, "dtype": "float", "type": "categorical", "fill_na": 0,
         "preprocess": "convert_to_bucket"},
        {"name": CATEGORIES, "active": True, "dtype": "str", "type": "categorical"},
    ]  # fmt: skip
    start = time.perf_counter()
    processor = CriteoProcessor(feature_cols=columns, label_col={"name": "label", "dtype": "float"}, dataset_id="made",
                                data_root=folder)  # fmt: skip
    build_dataset(processor, train_data=file, min_categr_count=int(min_count), data_format="csv", sep=",")
    seconds = time.perf_counter() - start
    rows = pl.scan_parquet(Path(folder) / "made" / "train.parquet").select(pl.len()).collect().item()
    sizes = {name: processor.feature_map.features[name]["vocab_size"] - 2 for name in CATEGORIES}
    Path(result).write_text(json.dumps({"prepare_s": seconds, "rows": rows, "values": sizes}), encoding="utf-8")


if __name__ == "__main__":
    main()
