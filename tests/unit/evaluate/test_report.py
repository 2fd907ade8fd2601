"""The report's files: whole, escaped, self-contained, and readable by programs."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from headrace.evaluate.page import Plot, number, svg
from headrace.evaluate.report import Section, history_plots, write_report
from headrace.types import Figure, Report

HOUR = 3_600_000_000
VOID = {"meta", "br", "hr", "img", "link"}


class Outline(HTMLParser):
    """Checks that every element is closed, and keeps text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: Path) -> Outline:
    parser = Outline()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


def history(cohorts: int = 5, **more: float) -> list[dict[str, float]]:
    return [
        {"start": float(n * HOUR), "end": float((n + 1) * HOUR), "rows": 100.0 + n, "positives": 5.0,
         "auc": 0.6 + 0.01 * n, "ne": 0.9, "log_loss": 0.2, "calibration": 1.0, "ece": 0.01, **more}
        for n in range(cohorts)
    ]  # fmt: skip


def report() -> Report:
    made = Report()
    made.add("auc", 0.7312, source="progressive validation")
    made.add("examples", 1_234_567, source="loop.run")
    made.add("table/user/rows", 42)
    made.figures["difference"] = Figure(0.01, 0.005, 0.015, "AUC", "paired")
    made.notes.append("the stream ended")
    made.settings["threads"] = 1
    return made


def test_both_files_are_written_and_the_page_is_returned(tmp_path: Path) -> None:
    page = write_report(tmp_path / "new" / "folder", report(), history(), title="A run")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]


def test_the_page_says_the_numbers(tmp_path: Path) -> None:
    words = " ".join(outline(write_report(tmp_path, report(), history(), title="A run")).text)
    for expected in ("A run", "0.7312", "1,234,567", "0.005 to 0.015", "table/user", "the stream ended", "threads"):
        assert expected in words


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    parser = outline(write_report(tmp_path, report(), history(logged_auc=0.8), title="A run"))
    links = [value for name, value in parser.attributes if name in ("src", "href", "xlink:href")]
    assert [link for link in links if not link.startswith("#")] == []
    assert "@import" not in (tmp_path / "report.html").read_text()


def test_all_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script> & \"quotes\" $\\frac{1}"
    made = report()
    made.add(bad, 1.0, source=bad, unit=bad)
    made.notes.append(bad)
    made.settings[bad] = bad
    plot = Plot(title=bad, x_label=bad, y_label=bad, lines={bad: ([0, 1], [0, 1]), "_hidden": ([0, 1], [1, 0])})
    page = write_report(tmp_path, made, [plot], title=bad, sections=[Section(title=bad, body=bad, rows=[[bad]]), bad])
    parser = outline(page)
    assert "<script" not in page.read_text()
    assert sum("alert('x')" in piece for piece in parser.text) >= 10
    assert "_hidden" in " ".join(parser.text)


def test_the_json_has_no_values_that_json_does_not_know(tmp_path: Path) -> None:
    made = report()
    made.add("nothing", math.nan)
    made.add("endless", math.inf)
    made.settings["path"] = tmp_path
    rows = history()
    rows[2]["auc"] = math.nan
    write_report(tmp_path, made, rows)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    record = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert record["figures"]["nothing"]["value"] is None
    assert record["figures"]["auc"]["value"] == 0.7312
    (line,) = record["series"][0]["lines"].values()
    assert line["y"] == [0.6, 0.61, None, 0.63, 0.64]
    assert record["settings"]["path"] == str(tmp_path)


def test_sections_come_with_paragraphs_and_tables(tmp_path: Path) -> None:
    part = Section(title="Sync", body="First.\n\nSecond.", head=("minutes", "AUC"), rows=[(1, 0.72), (60, 0.7)])
    page = write_report(tmp_path, report(), sections=[part]).read_text()
    assert "<p>First.</p>\n<p>Second.</p>" in page
    assert "<th>minutes</th>" in page
    assert "<td class='number'>0.72</td>" in page


def test_a_note_stands_once(tmp_path: Path) -> None:
    page = write_report(tmp_path, report(), sections=["the stream ended", "clicks are drawn"]).read_text()
    assert page.count("the stream ended") == 1
    assert page.count("clicks are drawn") == 1


def test_a_report_without_anything_is_still_a_page(tmp_path: Path) -> None:
    assert "Nothing yet" in " ".join(outline(write_report(tmp_path, Report(), title="Nothing yet")).text)


def test_equal_reports_are_equal_files(tmp_path: Path) -> None:
    first = write_report(tmp_path / "a", report(), history()).read_bytes()
    assert write_report(tmp_path / "b", report(), history()).read_bytes() == first


def test_history_becomes_one_plot_per_kind_of_number() -> None:
    plots = {plot.title: plot for plot in history_plots({"": history(logged_auc=0.9)})}
    assert len(plots) == 6
    lines = plots["AUC by cohort"].lines
    assert set(lines) == {"as served", "with logged values"}
    assert lines["as served"][0] == [0, 1, 2, 3, 4]
    assert plots["AUC by cohort"].x_label == "impression time, hours since the first cohort"


def test_several_histories_share_the_plots(tmp_path: Path) -> None:
    both = {"model": history(), "logistic regression": history(3)}
    lines = history_plots(both)[0].lines
    assert [len(x) for x, _ in lines.values()] == [5, 3]
    assert set(lines) == {"model", "logistic regression"}
    assert "logistic regression" in write_report(tmp_path, report(), both).read_text()


def test_long_streams_are_drawn_in_days() -> None:
    assert "days" in history_plots({"": history(100)})[0].x_label


def test_no_history_gives_no_plots() -> None:
    assert history_plots({"": []}) == []


def test_a_plot_is_well_formed_and_its_ids_are_its_own() -> None:
    drawn = svg(Plot(title="t", x_label="x", lines={"a": ([0, 1, 2], [1, math.nan, 3])}, level=0.5), "first")
    ET.fromstring(drawn)
    identities = re.findall(r'\bid="([^"]+)"', drawn)
    assert identities
    assert all(name.startswith("first-") for name in identities)
    for target in re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', drawn):
        assert next(filter(None, target)) in identities


def test_a_plot_without_numbers_says_so() -> None:
    assert "no data yet" in svg(Plot(title="t", x_label="x", lines={"a": ([0.0], [math.nan])}), "p")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3.0, "3"), (12345.678, "12,345.7"), (0.00012345, "0.0001234"), (math.inf, "∞"), (True, "True"), (-7, "-7")],
)
def test_numbers_are_written_as_people_write_them(value: object, shown: str) -> None:
    assert number(value) == shown
