"""Prepared data in the cache: found again, and made again when the files have changed."""

from __future__ import annotations

import os

from headrace.data import Category, Examples, OrderSplit, Preparation
from headrace.data.layout import Layout
from headrace.ranking.prepared import prepared


def test_the_cache_follows_files_that_changed(tmp_path, monkeypatch) -> None:
    """A file that was copied or downloaded again is prepared again, without a word to anybody."""
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.csv"
    path.write_text("label,city\n1,Ulm\n0,Bonn\n0,Ulm\n1,Bonn\n")
    rows = Examples(name="rows", paths=(path,), layout=Layout(types={"label": "float32"}))
    plan, halves = Preparation(columns=(Category("city"),)), OrderSplit({"train": 0.5, "test": 0.5})
    first = prepared("rows", rows, plan, halves).folder
    assert prepared("rows", rows, plan, halves).folder == first
    os.utime(path, ns=(1, 1))
    assert prepared("rows", rows, plan, halves).folder != first
