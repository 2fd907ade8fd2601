"""What a run on many machines looks like: workers, table servers, shards by state, decisions with their reasons."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from headrace.cli.output import human_bytes

Status = Mapping[str, Any]
STATES = {"done": ("█", "green"), "pending": ("▓", "green"), "doing": ("▒", "yellow"), "todo": ("░", "dim"),
          "quarantined": ("x", "red"), "dropped": ("-", "red")}  # fmt: skip
NODE_COLOURS = {"working": "green", "joining": "cyan", "slow": "yellow", "silent": "yellow", "gone": "red"}
WORKER_COLUMNS = {"name": "worker", "state": "state", "rows": "rows learned", "batch_rows": "rows a step", "rows_per_s":
                  "rows/s", "step_s": "s a step", "heard_s": "last heard", "generation": "restarts"}  # fmt: skip
SERVER_COLUMNS = {"name": "server", "state": "state", "buckets": "buckets", "rows": "table rows", "bytes": "size",
                  "request_s": "s a request", "generation": "restarts"}  # fmt: skip
BAR_LETTERS, DECISIONS, NODES = 48, 6, 16


def shown(name: str, value: object) -> str:
    """Return a value for people; a dash when nothing is known.

    Example:
        >>> [shown(*pair) for pair in [("rows", 12345), ("step_s", 0.12345), ("bytes", 2048), ("state", None)]]
        ['12,345', '0.123 s', '2.0 KiB', '–']
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if name == "bytes":
        return human_bytes(value)
    if name.endswith("_s") and not name.endswith("per_s"):
        return f"{value:.3f} s" if value < 10 else f"{value:,.0f} s"
    return f"{value:,.0f}"


def action_text(order: Status) -> str:
    """Return what was decided in a few words.

    Example:
        >>> action_text({"action": "AdjustBatch", "sizes": {"worker-0": 300, "worker-1": 212}})
        'rows a step: worker-0 300, worker-1 212'
        >>> action_text({"action": "Remove", "nodes": ["worker-3"]})
        'remove worker-3'
    """
    kind = str(order.get("action", ""))
    if kind == "AdjustBatch":
        parts = [f"{name} {rows}" for name, rows in dict(order.get("sizes") or {}).items()]
        more = f", and {len(parts) - 4} more" if len(parts) > 4 else ""
        return f"rows a step: {', '.join(parts[:4])}{more}"
    if kind == "MoveBuckets":
        parts = [f"{name} {share:.2f}" for name, share in dict(order.get("shares") or {}).items()]
        return f"share of the tables: {', '.join(parts[:4])}"
    words = {"Restart": f"restart {order.get('node')}", "Add": f"add {order.get('count')} workers",
             "Remove": f"remove {', '.join(order.get('nodes') or ())}", "Nothing": "nothing",
             "AdjustRate": f"learning rates × {order.get('factor')}",
             "Backup": f"not wait for the last {order.get('count')} workers"}  # fmt: skip
    return words.get(kind, kind)


def order_of(decision: Status) -> Status:
    """Return the action of a decision of the log, with its fields."""
    order = decision.get("order")
    return order if isinstance(order, Mapping) else {}


def server_facts(server: Status) -> Status:
    """Return what a table server says, with the rows and bytes of all its tables added up."""
    tables = server.get("tables")
    if not isinstance(tables, Mapping):
        return server
    return {**server, **{name: sum(int(table.get(name, 0)) for table in tables.values()) for name in ("rows", "bytes")}}


def shard_bar(counts: Mapping[str, float], letters: int = BAR_LETTERS) -> Text:
    """Return the shards as one line of bars, a state that has any getting at least one letter."""
    total = sum(counts.values())
    bar = Text()
    for state, (letter, colour) in STATES.items():
        share = counts.get(state, 0) / total if total else 0.0
        bar.append(letter * (max(1, round(share * letters)) if share else 0), style=colour)
    return bar


def _nodes(nodes: Sequence[Status], columns: Mapping[str, str]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    kept = {key: head for key, head in columns.items() if any(node.get(key) is not None for node in nodes)}
    for key, head in kept.items():
        table.add_column(head, justify="left" if key in ("name", "state") else "right", no_wrap=True)
    for node in nodes[:NODES]:
        colour = NODE_COLOURS.get(str(node.get("state")), "default")
        cells = [escape(shown(key, node.get(key))) for key in kept]
        table.add_row(
            *(f"[{colour}]{cell}[/]" if key == "state" else cell for key, cell in zip(kept, cells, strict=True))
        )
    if len(nodes) <= NODES:
        return table
    return Group(table, Text(f"… and {len(nodes) - NODES} more", style="dim"))


def _decisions(decisions: Sequence[Status]) -> RenderableType:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("step", "decided", "because"):
        table.add_column(head, justify="right" if head == "step" else "left", no_wrap=head == "step")
    for one in list(decisions)[-DECISIONS:]:
        table.add_row(
            shown("step", one.get("step")), escape(action_text(order_of(one))), escape(str(one.get("reason", "")))
        )
    return table


def _facts(status: Status) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    step, steps = status.get("step"), status.get("steps")
    of = "" if steps is None else f" of {shown('steps', steps)}"
    grid.add_row("step", f"[bold]{shown('step', step)}[/]{of}, {escape(str(status.get('mode', '–')))}, membership "
                         f"{shown('epoch', status.get('epoch'))}")  # fmt: skip
    rows = status.get("rows") or {}
    grid.add_row("rows", f"{shown('rows', rows.get('committed'))} committed of {shown('rows', rows.get('all'))}")
    counts = {str(name): int(count) for name, count in (status.get("shards") or {}).items()}
    if counts:
        states = {name: count for name, count in counts.items() if name in STATES}
        leases = f"; {counts['leases']:,} leases" if "leases" in counts else ""
        grid.add_row("shards", shard_bar(states))
        grid.add_row("", ", ".join(f"{count:,} {name}" for name, count in states.items() if count) + " rows" + leases)
    lag = status.get("lag") or {}
    if lag:
        grid.add_row("lag", ", ".join(f"{escape(str(name))} {shown('rows', rows)} rows" for name, rows in lag.items()))
    return grid


def draw_cluster(status: Status, *, stale_s: float | None = None) -> RenderableType:
    """Return the panel of a run.

    Args:
        status: What the head says of the run.
        stale_s: How old that is, if it comes from a file; said when it is more than a few seconds.
    """
    parts: list[RenderableType] = [_facts(status)]
    if status.get("workers"):
        parts += [Text(), _nodes(status["workers"], WORKER_COLUMNS)]
    if status.get("servers"):
        parts += [Text(), _nodes([server_facts(one) for one in status["servers"]], SERVER_COLUMNS)]
    decisions = [one for one in status.get("decisions") or () if order_of(one).get("action") != "Nothing"]
    decisions = decisions or list(status.get("decisions") or ())[-1:]
    if decisions:
        parts += [Text(), _decisions(decisions)]
    for row in list(status.get("quarantined") or ())[:DECISIONS]:
        parts.append(Text(f"quarantined: {_quarantined(row)}", style="red"))
    state = "finished" if status.get("finished") else "running"
    if stale_s is not None and stale_s > 5.0 and not status.get("finished"):
        state = f"said nothing for {stale_s:,.0f} s"
    title = f"headrace · {escape(str(status.get('name', 'cluster')))} · {state}"
    return Panel(Padding(Group(*parts), (0, 1)), title=title, border_style="blue", expand=False)


def _quarantined(row: object) -> str:
    if not isinstance(row, Mapping):
        return str(row)
    return ", ".join(f"{name} {value}" for name, value in row.items())


def age_s(status: Status) -> float | None:
    """Return how long ago a status file was written; None when it does not say."""
    written = status.get("time")
    return max(0.0, time.time() - float(written)) if isinstance(written, (int, float)) else None
