from __future__ import annotations

import json
import sys
import types

import pytest

from headrace.cli import papers
from headrace.cli.main import main
from headrace.errors import ConfigError, DataError


def result(*goals: tuple[object, object]) -> dict[str, object]:
    figures = {
        f"figure/{number}": {"value": 0.5, "low": 0.4, "high": 0.6, "unit": "AUC", "goal": goal, "holds": holds}
        for number, (goal, holds) in enumerate(goals)
    }
    return {"figures": figures, "commit": "abc", "machine": "Linux", "settings": {"size": "toy"}}


GOAL = {"op": ">=", "bound": 0.1}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Put one paper into a package of its own; returns how to say what its claim measures."""
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "card.md").write_text("# A sample method\n\nSome text.\n")
    (folder / "expected.json").write_text(json.dumps(result((GOAL, True), (GOAL, False), (None, None))))
    package = types.ModuleType("headrace.papers")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "headrace.papers", package)

    def measures(run) -> None:
        claim = types.ModuleType("headrace.papers.sample.claim")
        claim.run, claim.render = run, lambda measured: "the table"
        monkeypatch.setitem(sys.modules, "headrace.papers.sample", types.ModuleType("headrace.papers.sample"))
        monkeypatch.setitem(sys.modules, "headrace.papers.sample.claim", claim)

    return measures


def test_papers_are_found_by_listing_the_package(paper) -> None:
    assert list(papers.find_papers()) == ["sample"]


def test_the_real_papers_are_found() -> None:
    assert "monolith" in papers.find_papers()


def test_list_shows_titles_and_what_was_recorded(paper, capsys) -> None:
    assert main(["papers", "list"]) == 0
    printed = capsys.readouterr().out
    assert "A sample method" in printed
    assert "1 of 2" in printed


def test_list_as_json(paper, capsys) -> None:
    assert main(["papers", "list", "--json"]) == 0
    recorded = {"figures": 3, "goals": 2, "held": 1}
    assert json.loads(capsys.readouterr().out) == [{"slug": "sample", "title": "A sample method", "recorded": recorded}]


def test_show_prints_the_card(paper, capsys) -> None:
    assert main(["papers", "show", "sample"]) == 0
    assert "Some text." in capsys.readouterr().out


def test_unknown_paper_names_the_nearest(paper) -> None:
    with pytest.raises(ConfigError, match="'sample'"):
        papers.find_paper("simple")


def test_run_prints_one_json_object_and_nothing_else(paper, capsys) -> None:
    def run(size):
        print("half done")
        return result((GOAL, True))

    paper(run)
    assert main(["papers", "run", "sample", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == result((GOAL, True))
    assert "half done" in captured.err


def test_run_passes_the_size_on(paper) -> None:
    sizes = []
    paper(lambda size: sizes.append(size) or result((None, None)))
    assert main(["papers", "run", "sample", "--size", "small"]) == 0
    assert sizes == ["small"]


def test_run_for_people_shows_tables_and_goals(paper, capsys) -> None:
    paper(lambda size: result((GOAL, True)))
    assert main(["papers", "run", "sample"]) == 0
    printed = capsys.readouterr().out
    assert "the table" in printed
    assert "holds" in printed


def test_a_missed_goal_is_code_3(paper) -> None:
    paper(lambda size: result((GOAL, True), (GOAL, False)))
    assert main(["papers", "run", "sample", "--json"]) == 3


def test_a_figure_without_a_goal_misses_nothing(paper) -> None:
    paper(lambda size: result((None, None)))
    assert main(["papers", "run", "sample", "--json"]) == 0


def test_an_error_of_ours_is_code_1(paper, capsys) -> None:
    def run(size):
        raise DataError("File criteo.tsv", got="nothing", expected="a file")

    paper(run)
    assert main(["papers", "run", "sample", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "headrace: File criteo.tsv: got nothing, expected a file\n"


def test_a_crash_is_code_1(paper, capsys) -> None:
    paper(lambda size: 1 // 0)
    assert main(["papers", "run", "sample", "--json"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_out_writes_the_same_object(paper, tmp_path) -> None:
    paper(lambda size: result((GOAL, True)))
    assert main(["papers", "run", "sample", "--json", "--out", str(tmp_path / "claim.json")]) == 0
    assert json.loads((tmp_path / "claim.json").read_text()) == result((GOAL, True))


def test_results_of_another_shape_are_refused() -> None:
    whole = result((GOAL, True))
    for part in papers.RESULT:
        with pytest.raises(DataError, match=part):
            papers.check_result("sample", {name: value for name, value in whole.items() if name != part})
    with pytest.raises(DataError, match="at least one figure"):
        papers.check_result("sample", {**whole, "figures": {}})
    with pytest.raises(DataError, match="no goal, holds"):
        papers.check_result("sample", {**whole, "figures": {"f": {"value": 1, "low": 0, "high": 2, "unit": ""}}})


def test_a_goal_without_a_verdict_is_refused() -> None:
    with pytest.raises(DataError, match="both null"):
        papers.check_result("sample", result((GOAL, None)))


def test_recorded_figures_that_are_no_json_are_refused(paper, tmp_path) -> None:
    (tmp_path / "sample" / "expected.json").write_text("{")
    with pytest.raises(DataError, match=r"expected\.json"):
        papers.find_paper("sample").recorded()
