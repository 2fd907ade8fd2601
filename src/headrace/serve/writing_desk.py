"""Completions for many requests at once: one thread writes all of them, a token of each per step.

A request need not wait until the ones before it are done: its prompts are read between two steps and join those that
are being continued. A completion is written to its end with the weights that it began with; when a version comes, new
requests begin with it, and nothing stops.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from headrace.config import require
from headrace.data.text import TextCodec, jagged
from headrace.errors import CapacityError, HeadraceError, NumericError, StoreError
from headrace.nn.causal_settings import Decoder, Decoding, JoinableDecoding
from headrace.serve.generate import GenerateConfig, closed_up, distribution, draw, uniforms
from headrace.serve.text_stream import TextStream
from headrace.types import Version

_log = logging.getLogger(__name__)
STOP, LENGTH, GONE = "stop", "length", "gone"
"""Why a completion ended: by itself or by a stop, at its longest, or because nobody waits for it any more."""


class Weights(Protocol):
    """Who knows the version that answers; `LanguagePredictor` does."""

    def current(self) -> tuple[Version, Decoder]:
        """Return the version held and its weights, laid out for generation."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One completion to be written.

    Attributes:
        prompt: Tokens, at least one.
        config: How to write it.
        seed: What its draws are made of.
        stops: Texts that end it.
        top: How many of the likeliest tokens to keep beside each drawn one.
    """

    prompt: tuple[int, ...]
    config: GenerateConfig
    seed: int
    stops: tuple[str, ...] = ()
    top: int = 0


@dataclass(slots=True, eq=False)
class Writing:
    """One completion while it is written, and when it is done.

    Attributes:
        task: What was asked.
        text: Its text.
        tokens: What was drawn.
        log_probs: Log-probability of every token, under the distribution that it was drawn from.
        tops: The likeliest tokens beside each drawn one, with their log-probabilities.
        reason: Why it ended; empty while it goes on.
    """

    task: Task
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)
    reason: str = ""
    draws: list[float] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it ended by itself, or by a stop."""
        return self.reason == STOP

    def take(self, token: int, log_prob: float) -> str:
        """Add a token and return the text that may be given out now."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        given = self.text.push(token)
        if self.text.stopped or token in self.task.config.ends:
            self.reason = STOP
        elif len(self.tokens) == self.task.config.max_tokens:
            self.reason = LENGTH
        if self.reason:
            given += self.text.finish()
            self.reason = STOP if self.text.stopped else self.reason  # what was held back may hold a stop
        return given


OnText = Callable[[int, str, int], None]
"""Told of every step: which completion, the text that is new, and how many tokens there are now."""


@dataclass(slots=True, eq=False)
class Order:
    """The completions of one request.

    Attributes:
        writings: One for each task.
        done: Has the order itself when all of them are written, or the error.
        on_text: Called from the writing thread.
        version: What writes them; number -1 until they are begun.
    """

    writings: list[Writing]
    done: Future[Order] = field(default_factory=Future)
    on_text: OnText | None = None
    version: Version = field(default_factory=lambda: Version(-1))
    gone: bool = False
    left: int = 0

    def cancel(self) -> None:
        """Stop writing: nobody waits any more. What was written until then is still handed over."""
        self.gone = True


@dataclass(slots=True, eq=False)
class _Row:
    order: Order
    place: int

    @property
    def writing(self) -> Writing:
        return self.order.writings[self.place]


@dataclass(slots=True, eq=False)
class _Running:
    """Completions that are continued together."""

    decoder: Decoder
    decoding: Decoding
    rows: list[_Row]


class WritingDesk:
    """Takes orders and writes them in a thread of its own.

    Args:
        weights: Who knows the version that answers.
        codec: Turns tokens to text.
        max_running: Completions that are written at a time.
        max_waiting: Completions that may wait for their turn; more are refused.
        max_length: Longest sequence, prompt and completion together.

    Thread-safety: orders may come from any thread.

    Cost: a step of all running completions together per token; a request that joins them copies their keys and values
        once, where the model's sequences can be joined (our own can; those of `transformers` run beside each other).
    """

    def __init__(
        self, weights: Weights, codec: TextCodec, *, max_length: int, max_running: int = 64, max_waiting: int = 256,
    ) -> None:  # fmt: skip
        require(max_running >= 1, "max_running", got=max_running, expected="a positive integer")
        require(max_waiting >= 0, "max_waiting", got=max_waiting, expected="0 or more")
        self.weights, self.codec, self.max_length = weights, codec, max_length
        self.max_running, self.max_waiting = max_running, max_waiting
        self._waiting: deque[Order] = deque()
        self._running: list[_Running] = []
        self._wake, self._closed = threading.Condition(), False
        self._thread: threading.Thread | None = None
        self.steps = self.written = 0

    @property
    def waiting(self) -> int:
        """Completions that wait for their turn."""
        with self._wake:
            return sum(len(order.writings) for order in self._waiting)

    @property
    def running(self) -> int:
        """Completions that are being written."""
        return sum(len(one.rows) for one in list(self._running))

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="writing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write to the end what was begun, refuse what waits, and end."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self._refuse_waiting()

    def submit(self, tasks: Sequence[Task], on_text: OnText | None = None) -> Order:
        """Take the completions of one request.

        Raises:
            CapacityError: If too many wait already.
            StoreError: If the desk is closed.
        """
        order = Order([Writing(task, TextStream(self.codec, task.stops)) for task in tasks], on_text=on_text)
        for writing in order.writings:
            writing.draws = uniforms([writing.task.seed], writing.task.config.max_tokens)[0].tolist()
        order.left = len(order.writings)
        order.done.set_running_or_notify_cancel()
        with self._wake:
            if self._closed or self._thread is None:
                raise StoreError("Writing desk", got="a request after the end", expected="a running server")
            count = sum(len(one.writings) for one in self._waiting)
            if count and count + len(tasks) > self.max_waiting:
                raise CapacityError("Server", got=f"{count} completions that wait for their turn", expected="fewer",
                                    do="Try again in a second.")  # fmt: skip
            self._waiting.append(order)
            self._wake.notify()
        return order

    def _run(self) -> None:
        while True:
            orders = self._next()
            if orders is None:
                return
            if orders:
                self._begin(orders)
            for one in self._running:
                try:
                    self._advance(one)
                except Exception as error:  # noqa: BLE001  the thread must outlive whatever one request brought
                    self._fail(one.rows, error)
                    one.rows = []
            self._running = [one for one in self._running if one.rows]
            self.steps += 1

    def _next(self) -> list[Order] | None:
        """Return orders that may begin now, waiting for one where nothing is running; None at the end."""
        found: list[Order] = []
        with self._wake:
            while not (self._closed or self._waiting or self._running):
                self._wake.wait()
            if self._closed:
                return [] if self._running else None
            room = self.max_running - self.running
            while self._waiting and (len(self._waiting[0].writings) <= room or room == self.max_running):
                order = self._waiting.popleft()
                if order.gone:
                    _unwritten(order)
                    continue
                room -= len(order.writings)
                found.append(order)
        return found

    def _begin(self, orders: list[Order]) -> None:
        rows = [_Row(order, place) for order in orders for place in range(len(order.writings))]
        try:
            version, decoder = self.weights.current()
            for order in orders:
                order.version = version
            for part in self._together(rows):
                prompts = jagged([row.writing.task.prompt for row in part])
                room = max(row.writing.task.config.max_tokens for row in part) - 1
                self._add(_Running(decoder, decoder.begin(prompts, room), part))
        except Exception as error:  # noqa: BLE001  see above
            self._fail(rows, error)

    def _together(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Yield rows that may begin as one: the longest prompt of them leaves room for the longest completion."""
        part: list[_Row] = []
        longest = room = 0
        for row in sorted(rows, key=lambda row: len(row.writing.task.prompt)):
            task = row.writing.task
            more = max(longest, len(task.prompt)), max(room, task.config.max_tokens)
            if part and sum(more) - 1 > self.max_length:
                yield part
                part, more = [], (len(task.prompt), task.config.max_tokens)
            part.append(row)
            longest, room = more
        if part:
            yield part

    def _add(self, fresh: _Running) -> None:
        """Join sequences to those that run with the same weights, or let them run beside."""
        for one in self._running:
            same = one.decoder is fresh.decoder and len(one.rows) > 0
            if same and isinstance(one.decoding, JoinableDecoding) and isinstance(fresh.decoding, JoinableDecoding):
                one.decoding, one.rows = one.decoding.joined(fresh.decoding), one.rows + fresh.rows
                return
        self._running.append(fresh)

    def _advance(self, one: _Running) -> None:
        """Draw a token for every row, and let go those that end with it."""
        drawn, log_probs = self._drawn(one)
        stays = []
        for row, token, log_prob in zip(one.rows, drawn, log_probs, strict=True):
            writing, order = row.writing, row.order
            given = writing.take(token, log_prob)
            if order.gone and not writing.reason:
                writing.reason = GONE
            _tell(row, given)
            stays.append(not writing.reason)
            if writing.reason:
                self._finish(order)
        if not all(stays):
            held = closed_up(stays)
            one.rows, drawn = [one.rows[row] for row in held], [drawn[row] for row in held]
            if not held:
                return
            one.decoding.keep(held)
        one.decoding.step(torch.tensor(drawn))

    def _drawn(self, one: _Running) -> tuple[list[int], list[float]]:
        """Return a token for every row with its log-probability; rows that are written alike are drawn together."""
        alike: dict[GenerateConfig, list[int]] = {}
        for place, row in enumerate(one.rows):
            alike.setdefault(row.writing.task.config, []).append(place)
        tokens, log_probs = [0] * len(one.rows), [0.0] * len(one.rows)
        for config, places in alike.items():
            logits_BV = one.decoding.logits if len(alike) == 1 else one.decoding.logits[places]
            writings = [one.rows[place].writing for place in places]
            draws_B = torch.tensor([writing.draws[len(writing.tokens)] for writing in writings])
            picked_B, found_B = draw(logits_BV, draws_B, config)
            if not bool(torch.isfinite(found_B).all()):
                raise NumericError("Generation", got="logits that are NaN or infinite", expected="finite ones",
                                   do="Look at the version that answers, and at its learner.")  # fmt: skip
            for place, token, log_prob in zip(places, picked_B.tolist(), found_B.tolist(), strict=True):
                tokens[place], log_probs[place] = token, log_prob
            _keep_tops(logits_BV, config, writings)
        return tokens, log_probs

    def _finish(self, order: Order) -> None:
        order.left -= 1
        self.written += 1
        if order.left == 0 and not order.done.done():
            order.done.set_result(order)

    def _fail(self, rows: Sequence[_Row], error: Exception) -> None:
        if not isinstance(error, HeadraceError):
            _log.exception("could not write completions", exc_info=error)
            error = StoreError("Generation", got=f"{type(error).__name__}: {error}")
        for row in rows:
            row.order.gone = True
            if not row.order.done.done():
                row.order.done.set_exception(error)

    def _refuse_waiting(self) -> None:
        with self._wake:
            waiting, self._waiting = list(self._waiting), deque()
        rows = [_Row(order, place) for order in waiting for place in range(len(order.writings))]
        self._fail(rows, StoreError("Writing desk", got="a server that ends", expected="a running one"))


def _tell(row: _Row, given: str) -> None:
    """Tell whoever follows an order of a step; one that cannot be told any more is gone."""
    if row.order.on_text is None or row.order.gone:
        return
    try:
        row.order.on_text(row.place, given, len(row.writing.tokens))
    except Exception as error:  # noqa: BLE001  one who went away must not take the others' completions along
        _log.info("nobody follows a completion any more: %s", error)
        row.order.gone = True


def _unwritten(order: Order) -> None:
    for writing in order.writings:
        writing.reason = GONE
    order.done.set_result(order)


def _keep_tops(logits_BV: Tensor, config: GenerateConfig, writings: Sequence[Writing]) -> None:
    """Note the likeliest tokens for those who asked; tokens that could not be drawn are left out."""
    wanted = [place for place, writing in enumerate(writings) if writing.task.top]
    if not wanted:
        return
    most = min(max(writings[place].task.top for place in wanted), logits_BV.shape[1])
    found = distribution(logits_BV[wanted], config).topk(most, -1)
    for place, chances, tokens in zip(wanted, found.values.tolist(), found.indices.tolist(), strict=True):
        top = writings[place].task.top
        pairs = zip(tokens[:top], chances[:top], strict=True)
        writings[place].tops.append([(token, chance) for token, chance in pairs if chance > float("-inf")])
