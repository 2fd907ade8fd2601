"""What an elastic run learns, on how many processes, and what is done when they fail."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from headrace.config import known_name, require
from headrace.elastic.settings_file import FILE, VARIABLE, result_in, settings_in
from headrace.errors import ConfigError
from headrace.online.recipe import build, find_recipe
from headrace.publish.durable_files import write_whole
from headrace.ranking.config import FitConfig
from headrace.runtime.simulate_patterns import Pattern
from headrace.runtime.solutions import backs_up, solution_from_json

LEARNED = ("recipe", "arguments", "settings", "batch_rows", "epochs", "mode", "delivery", "shuffle", "seed")
"""What two runs must share so that the result of one is that of the other."""
Mode = Literal["sync", "async"]
Sums = Literal["gloo", "head"]
Delivery = Literal["exactly_once", "at_least_once", "at_most_once"]


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """One elastic run. It is written to a file of the run's folder, and every process of the run reads it there.

    Attributes:
        recipe: `package.module:function` of a recipe that returns a `FitConfig`: data, schema, model, tables,
            objective, optimiser, rows of a step, seed.
        arguments: The recipe's keyword arguments, plain values.
        settings: The same as `name=value` words, typed by the recipe's annotations; one of both.
        folder: Where the run keeps its queue, checkpoints, decisions, logs and result.
        workers, servers: Processes to begin with; workers may come and go.
        batch_rows: Rows of a step over all workers; None: as the recipe says.
        epochs: Passes over the training examples; None: as the recipe says.
        mode: `sync`: one step of all workers together. `async`: every worker learns from what the servers have.
        max_staleness: In `async` mode, how many steps of others may lie between the parameters that a worker learns
            from and its own step: faster workers wait as far as they must; at least one less than the workers,
            because they push one after another; None: nobody waits.
        sums: Where the gradients of a synchronous step are added: `gloo`, by all workers (an all-reduce); `head`, by
            the head in the order of workers, which is exact to the bit and can leave slow workers out.
        solution: What is done about slow nodes, as `headrace.runtime.solution_json` gives it; None: nothing.
        pattern: Injected slowness, for experiments.
        delivery: What is promised of an example when processes die.
        durability: What the record of a commit survives: the death of the head's process, or of the machine's power.
        shard_rows: Rows of a lease.
        shuffle: Whether examples come in a seeded random order.
        heartbeat_s: Between two signs of life of a process.
        silence_s: After so long without one a process counts as lost.
        start_s: How long the head waits for all workers before it begins with those that are there.
        lookup_wait_s: How long a look-up waits at a table server for the step that it has to see.
        prepared_bytes: Gradients that a table server holds until their steps count, all together.
        checkpoint_every: Steps between two checkpoints; 0: none, so that a run that loses a table server, or all of its
            workers, or is started again, begins anew.
        audit: Count in a table of the model how often each example was learned.
        checkpoints: Folder of checkpoints, which head and servers must see alike; None: in the run's folder.
        publish: Publish the result as version 0 of the folder, as a fit does.
        seed: Of the order of examples and of random numbers; None: as the recipe says.
        remote: Whether processes may listen on addresses that other machines can reach.

    Raises:
        ConfigError: If a value cannot work.
    """

    recipe: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    folder: Path
    workers: int = 2
    servers: int = 1
    batch_rows: int | None = None
    epochs: int | None = None
    mode: Mode = "sync"
    max_staleness: int | None = None
    sums: Sums = "gloo"
    solution: Mapping[str, Any] | None = None
    pattern: Pattern | None = None
    delivery: Delivery = "exactly_once"
    durability: Literal["process", "power"] = "process"
    shard_rows: int = 4096
    shuffle: bool = True
    heartbeat_s: float = 0.15
    silence_s: float = 2.0
    start_s: float = 60.0
    lookup_wait_s: float = 5.0
    prepared_bytes: int = 2 << 30
    checkpoint_every: int = 0
    audit: bool = True
    publish: bool = True
    checkpoints: Path | None = None
    seed: int | None = None
    remote: bool = False

    def __post_init__(self) -> None:
        require(":" in self.recipe, "ElasticConfig.recipe", got=self.recipe, expected="package.module:function")
        for name in ("workers", "servers", "shard_rows", "prepared_bytes"):
            require(getattr(self, name) >= 1, f"ElasticConfig.{name}", got=getattr(self, name), expected="at least 1")
        for name in ("batch_rows", "epochs"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"ElasticConfig.{name}", got=value, expected="at least 1, or None")
        least = self.workers - 1 if self.mode == "async" else 0
        require(self.max_staleness is None or self.max_staleness >= least, "ElasticConfig.max_staleness",
                got=self.max_staleness, expected=f"at least {least}, or None",
                do=f"Of {self.workers} workers that take turns, the last lags so much.")  # fmt: skip
        for name in ("heartbeat_s", "start_s", "lookup_wait_s"):
            require(
                getattr(self, name) > 0, f"ElasticConfig.{name}", got=getattr(self, name), expected="seconds above 0"
            )
        require(self.silence_s > 2 * self.heartbeat_s, "ElasticConfig.silence_s", got=self.silence_s,
                expected=f"more than two heartbeats ({2 * self.heartbeat_s:g} s)")  # fmt: skip
        require(not (self.arguments and self.settings), "ElasticConfig.settings", got=self.settings,
                expected="none beside arguments")  # fmt: skip
        require(self.checkpoint_every >= 0, "ElasticConfig.checkpoint_every", got=self.checkpoint_every,
                expected="0 or more steps")  # fmt: skip
        known_name("ElasticConfig.mode", self.mode, ("sync", "async"))
        known_name("ElasticConfig.sums", self.sums, ("gloo", "head"))
        known_name("ElasticConfig.delivery", self.delivery, ("exactly_once", "at_least_once", "at_most_once"))

    def learned(self) -> FitConfig:
        """Return what the recipe makes of its arguments, with what is set here in its place.

        Raises:
            ConfigError: If there is no such recipe, or it returns something else.
        """
        recipe = _recipe(self.recipe)
        made = build(recipe, self.settings) if self.settings else recipe(**self.arguments)
        if not isinstance(made, FitConfig):
            raise ConfigError(f"Recipe {self.recipe}", got=type(made).__name__, expected="a FitConfig")
        changes = {
            name: value for name in ("batch_rows", "epochs", "seed") if (value := getattr(self, name)) is not None
        }
        return replace(made, **changes)

    def check(self, fit: FitConfig | None = None) -> None:
        """Raise for what only the recipe and the solution can tell to be wrong.

        Args:
            fit: What the recipe makes, where that is known.

        Raises:
            ConfigError: If a step has fewer rows than workers, or workers are to be left out of sums that they make.
        """
        rows = (fit or self.learned()).batch_rows
        require(rows >= self.workers, "Rows of a step (batch_rows)", got=rows,
                expected=f"one for each of {self.workers} workers", do="Take larger steps.")  # fmt: skip
        if self.mode == "sync" and self.sums != "head" and self.solution is not None:
            require(not backs_up(solution_from_json(self.solution)), "ElasticConfig.sums", got=self.sums,
                    expected="head, with a solution that leaves slow workers out",
                    do="Set sums='head' (--sums head).")  # fmt: skip

    def ended(self) -> Mapping[str, Any] | None:
        """Return what the run in this folder came to; None where it has not ended, or never began.

        Raises:
            ConfigError: If it has learned something else than this one is to.
        """
        made = result_in(self.folder)
        if made is None:
            return None
        before, now = settings_in(self.folder), json.loads(json.dumps(self.to_json()))
        other = {name: before.get(name) for name in LEARNED if before.get(name) != now[name]}
        require(not other, f"Folder {self.folder}", got=f"the result of another run: {other}",
                expected="none, or that of this run", do="Give a folder of its own to it.")  # fmt: skip
        return made

    @property
    def saved_in(self) -> Path:
        """Folder of checkpoints."""
        return self.checkpoints or self.folder / "checkpoints"

    def write(self) -> Path:
        """Write the settings to the run's folder, where its processes read them."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FILE
        write_whole(path, json.dumps(self.to_json(), indent=2, sort_keys=True).encode())
        return path

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        values = asdict(self) | {"folder": str(self.folder), "arguments": dict(self.arguments)}
        values["checkpoints"] = str(self.saved_in)
        values["pattern"] = None if self.pattern is None else self.pattern.to_json()
        values["solution"] = None if self.solution is None else dict(self.solution)
        return values

    def environment(self) -> dict[str, str]:
        """Return what a process needs that cannot read the folder, as environment variables."""
        return {VARIABLE: json.dumps(self.to_json(), separators=(",", ":"))}

    @staticmethod
    def read(folder: Path) -> ElasticConfig:
        """Return the settings of the run in a folder: from the environment of this process, else from the folder.

        Raises:
            ConfigError: If there are none.
        """
        values = settings_in(folder)
        pattern = values.pop("pattern")
        known = {name: value for name, value in values.items() if name in ElasticConfig.__dataclass_fields__}
        made = None if pattern is None else Pattern.from_json(pattern)
        return ElasticConfig(**known | {
            "folder": folder, "pattern": made, "settings": tuple(values["settings"]),
            "checkpoints": Path(values["checkpoints"])})  # fmt: skip


def _recipe(name: str) -> Any:
    """Return a recipe; any function of an importable module, also one that a checker of recipes would not list."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError:
        found = None
    return found if callable(found) else find_recipe(name)
