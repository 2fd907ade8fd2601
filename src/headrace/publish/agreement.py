"""What a replica must agree on with the learner before it serves a version."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from headrace.errors import RowRuleMismatch, StaleError, VersionError, nearest
from headrace.types import Change

TABLE = "table/"
"""Prefix of the entries of `Change.spec` that hold `TableConfig.spec()`, by table name."""
RELOAD = "reload"
"""Note of a version whose removed ids were overwritten: who has not passed it has to load a snapshot."""


def check_tables(change: Change, tables: Mapping[str, object]) -> None:
    """Refuse a change that was learned with other tables.

    Two tables agree when an id without a row reads the same in both: same name, width, initial rows and seed. Nothing
    is concluded from silence: a table that the change does not describe is not compared.

    Args:
        change: The change; entries `table/<name>` of its `spec` are compared.
        tables: The replica's tables; those with a `config` are compared.

    Raises:
        RowRuleMismatch: If a table differs; says in what.
        VersionError: If the change describes a table that is not here.
    """
    for key, text in change.spec.items():
        if not key.startswith(TABLE):
            continue
        name = key.removeprefix(TABLE)
        what = f"Change {change.version.number}, table '{name}'"
        if name not in tables:
            raise _unknown(what, name, tables, "schema")
        own = _spec(tables[name])
        if own is not None and (facts := _difference(text, own)):
            raise RowRuleMismatch(what, got=facts[0], expected=facts[1],
                                  do="Open the serving tables with the configuration of the learner.")  # fmt: skip


def check_rows(change: Change, widths: Mapping[str, int]) -> None:
    """Refuse rows for a table that is not here, of another width, or that are not finite.

    Raises:
        VersionError: If a table is not here, or a value is NaN or infinite.
        RowRuleMismatch: If the width differs.
    """
    for name, rows in change.tables.items():
        what = f"Change {change.version.number}, table '{name}'"
        if name not in widths:
            raise _unknown(what, name, widths, "schema")
        width = int(rows.rows.shape[1])
        if len(rows.ids) and width != widths[name]:
            raise RowRuleMismatch(what, got=f"rows of width {width}", expected=f"width {widths[name]}",
                                  do="Open the serving tables with the configuration of the learner.")  # fmt: skip
        if not bool(torch.isfinite(rows.rows).all()):
            raise VersionError(what, got="NaN or infinity", expected="finite rows", do="Look at the learner.")


def check_dense(change: Change, dense: Mapping[str, Tensor], *, whole: bool) -> None:
    """Refuse dense tensors that are not here or have another shape or type; `whole` asks for all of them.

    Raises:
        VersionError: Says which tensor, and what differs.
    """
    what = f"Change {change.version.number}, dense tensor"
    for name, tensor in change.dense.items():
        if name not in dense:
            raise _unknown(f"{what} '{name}'", name, dense, "model")
        own = dense[name]
        if tensor.shape != own.shape or tensor.dtype != own.dtype:
            raise VersionError(f"{what} '{name}'", got=f"{tensor.dtype} {tuple(tensor.shape)}",
                               expected=f"{own.dtype} {tuple(own.shape)}",
                               do="Serve it with the model it was learned with.")  # fmt: skip
    lacking = sorted(set(dense) - set(change.dense)) if whole else []
    if lacking:
        raise VersionError(f"{what}s", got=f"none called {lacking}", expected="all of the model, in a full change",
                           do="Serve it with the model it was learned with.")  # fmt: skip


def check_reload(change: Change) -> None:
    """Refuse, for a replica that follows the log, a version that cannot be followed any more.

    Raises:
        StaleError: If its removed ids were overwritten; a snapshot holds their effect.
    """
    if RELOAD in change.notes:
        raise StaleError(f"Change {change.version.number}", got="an erasure whose ids were overwritten since",
                         expected="a replica that has applied it already", do="Load a snapshot.")  # fmt: skip


def _unknown(what: str, name: str, known: Mapping[str, object], with_what: str) -> VersionError:
    return VersionError(what, got="nothing of that name here", expected=nearest(name, known),
                        do=f"Serve it with the {with_what} it was learned with.")  # fmt: skip


def _spec(table: object) -> str | None:
    config = getattr(table, "config", None)
    spec = getattr(config, "spec", None)
    return str(spec()) if callable(spec) else None


def _difference(theirs: str, ours: str) -> tuple[str, str] | None:
    """Return both sides of what differs, as short JSON."""
    if theirs == ours:
        return None
    try:
        left, right = json.loads(theirs), json.loads(ours)
    except ValueError:
        return theirs, ours
    if not isinstance(left, dict) or not isinstance(right, dict):
        return theirs, ours
    keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
    if not keys:
        return None
    return (json.dumps({key: left.get(key) for key in keys}), json.dumps({key: right.get(key) for key in keys}))
