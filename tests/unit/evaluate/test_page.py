"""Plots: what is drawn, and that a recorded plot is drawn again as it was."""

from __future__ import annotations

import json
import math

import pytest

from headrace.evaluate import ClaimRecord, Plot
from headrace.evaluate.page import plain_plot, read_plot, svg

LINES = Plot(title="Quality", x_label="evaluations", y_label="error", log_x=True, log_y=True, level=0.5,
             lines={"order 1": ([5, 10, 20], [0.4, 0.2, 0.1]), "order 2": ([5, 10, 20], [0.2, math.nan, 0.01])},
             bands={"order 1": ([0.3, 0.1, 0.05], [0.5, 0.3, 0.2])})  # fmt: skip
BARS = Plot(title="Gain", x_label="AUC", bars={"ours": (0.2, 0.1, 0.3), "chance": (0.0, None, None)})


@pytest.mark.parametrize("plot", [LINES, BARS])
def test_a_recorded_plot_is_drawn_as_it_was(plot) -> None:
    again = read_plot(json.loads(json.dumps(plain_plot(plot), allow_nan=False)))
    assert svg(again, "one") == svg(plot, "one")


@pytest.mark.parametrize(("plot", "words"), [(LINES, ["order 1", "order 2", "error"]), (BARS, ["ours", "chance"])])
def test_names_are_text_in_the_drawing(plot, words) -> None:
    drawn = svg(plot, "one")
    assert [word for word in [*words, plot.x_label] if word not in drawn] == []


def test_the_first_bar_is_on_top() -> None:
    drawn = svg(BARS, "one")
    assert drawn.index("ours") < drawn.index("chance")


def test_bars_and_their_intervals_change_the_drawing() -> None:
    wider = Plot(title="Gain", x_label="AUC", bars={"ours": (0.2, 0.0, 0.4), "chance": (0.0, None, None)})
    assert svg(wider, "one") != svg(BARS, "one")


def test_bands_and_axes_change_the_drawing() -> None:
    bare = Plot(title="Quality", x_label="evaluations", lines=LINES.lines)
    logarithmic = Plot(title="Quality", x_label="evaluations", lines=LINES.lines, log_y=True)
    banded = Plot(title="Quality", x_label="evaluations", lines=LINES.lines, bands=LINES.bands)
    assert len({svg(plot, "one") for plot in (bare, logarithmic, banded)}) == 3


def test_a_claim_records_its_plots() -> None:
    record = ClaimRecord()
    assert "plots" not in record.to_json({})
    record.plots.append(BARS)
    assert record.to_json({})["plots"] == [plain_plot(BARS)]
