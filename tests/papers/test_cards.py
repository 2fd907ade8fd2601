"""Cards say what was recorded: a table that a card shows holds cells of `expected.json`, to the letter."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

PAPERS = sorted(
    path.name for path in files("headrace.papers").iterdir() if path.is_dir() and (path / "card.md").is_file()
)
RULE = re.compile(r"-{10,}")


def cells(line: str) -> tuple[str, ...]:
    return tuple(re.split(r"\s{2,}", line.strip()))


def shown(card: str) -> dict[str, list[tuple[str, ...]]]:
    """Return the tables of a card by title: the line before a rule; the header and the rows, as cells."""
    found = {}
    blocks = re.findall(r"^```text\n(.*?)^```", card, flags=re.M | re.S)
    for lines in (part.splitlines() for block in blocks for part in block.split("\n\n")):
        for at in range(1, len(lines) - 2):
            if RULE.fullmatch(lines[at]) and lines[at - 1] and RULE.fullmatch(lines[at + 2]):
                found[lines[at - 1]] = [cells(line) for line in lines[at + 1 :]]
    return found


def recorded(record: dict) -> dict[str, list[tuple[str, ...]]]:
    sizes = [record] if "figures" in record else list(record.values())
    found: dict[str, list[tuple[str, ...]]] = {}
    for table in (table for size in sizes for table in size.get("tables", ())):
        rows = [tuple(cell.strip() for cell in row if cell.strip()) for row in (table["columns"], *table["rows"])]
        found.setdefault(table["title"], []).extend(rows)
    return found


def of_paper(name: str) -> tuple[dict, dict]:
    folder = files("headrace.papers") / name
    record = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    return shown((folder / "card.md").read_text(encoding="utf-8")), recorded(record)


def untimed(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out a last column of seconds: it may be of another run with the same figures, where a card says so."""
    timed = {len(row) for row in rows if row[-1] == "seconds"}
    return [row[:-1] if len(row) in timed else row for row in rows]


@pytest.mark.parametrize("name", PAPERS)
def test_a_card_shows_what_was_recorded(name) -> None:
    card, record = of_paper(name)
    copies = {title: rows for title, rows in card.items() if title in record}
    assert copies, f"the card of {name} shows no table that was recorded"
    for title, rows in copies.items():
        known, table = untimed(record[title]), untimed([rows[0], *rows[2:]])
        assert table[0] in known, title
        labels, width = {row[0] for row in known}, len(table[0])
        body = [row for row in table[1:] if len(row) > 1 and (row[0] in labels or len(row) == width)]  # no notes
        assert body, title
        assert [row for row in body if row not in known] == [], title


def test_a_cell_that_was_changed_is_found() -> None:
    card, record = of_paper("ice_grt")
    title, rows = next(iter(card.items()))
    assert [row for row in rows[2:] if row in set(record[title])] == record[title][1:]
    changed = (*rows[3][:-1], "0.999")
    assert changed not in set(record[title])
