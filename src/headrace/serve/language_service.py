"""The service of a language model without a web framework: writes completions, logs them, and takes votes on them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import cast

from headrace.config import require
from headrace.data.features import Label, Schema, TextFeature
from headrace.data.log import EmbeddedLog
from headrace.data.text import TextCodec, jagged
from headrace.errors import VersionError
from headrace.publish.acknowledgements import Acknowledger
from headrace.publish.replica import ChangeSource
from headrace.serve.arms import Arm, Arms
from headrace.serve.completion_rows import KINDS, completion_rows, votes
from headrace.serve.event_writer import EventWriter, Written
from headrace.serve.experiment import MAIN
from headrace.serve.follow import Follower
from headrace.serve.generate import GenerateConfig, generate
from headrace.serve.language import LanguagePredictor
from headrace.serve.language_settings import LanguageSettings
from headrace.serve.metrics import Reading, ServeMetrics
from headrace.serve.openai_answers import Saying
from headrace.serve.openai_bodies import BodyReader, WritingRequest
from headrace.serve.predictor import RankPredictor
from headrace.serve.pressure import Pressure
from headrace.serve.readiness import Readiness
from headrace.serve.requests import RequestReader
from headrace.serve.settings import ServeConfig
from headrace.serve.watched import Watched
from headrace.serve.writing_desk import OnText, Order, Task, WritingDesk
from headrace.types import Events

_MASK = (1 << 63) - 1
_STEP = 0x9E3779B97F4A7C15
ACTIONS = Schema(features=(TextFeature("prompt", 1, optional=True),), label=Label(positive=KINDS))
"""What a client may say of completions, as the reader of actions knows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a server of a language model offers.

    Attributes:
        name: The model's name, which clients have to say.
        settings: Limits, and what holds where a request does not say.
        prompts: What people are shown completions of at `/preferences`, where they do not write something themselves.

    Raises:
        ConfigError: If there are prompts, and the two completions of one would always be the same.
    """

    name: str
    settings: LanguageSettings = field(default_factory=LanguageSettings)
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(not self.prompts or self.settings.temperature > 0, "Offer.settings, temperature", got=0,
                expected="above 0 where prompts are offered for comparison",
                do="At temperature 0 both completions are the same.")  # fmt: skip


@dataclass(slots=True, eq=False)
class Begun:
    """A request that is being answered: what is written, and how the answer is written down.

    Attributes:
        saying: Writes the answer down.
        order: What is being written.
        durable: Done when the completions are in the log, which is after they were written; or has the error.
    """

    saying: Saying
    order: Order
    durable: Future[Written]


class LanguageService(Watched):
    """A language model, an event log and a follower of the change log as one thing.

    Every completion is in the log before its answer ends, also one that nobody waited for to its end.

    Args:
        predictor: The model; it has to have a codec.
        log: The event log.
        config: Settings that every server has.
        offer: What is offered.
        changes: Where new versions come from; None when somebody else applies them.
        sign_of_life: Returns the age in seconds of the learner's last sign of life; see `Watched`.
        acknowledger: Tells the publisher which version is served here; None: nobody is told.

    Raises:
        ConfigError: If the model has no codec.
    """

    def __init__(
        self, predictor: LanguagePredictor, log: EmbeddedLog, config: ServeConfig, offer: Offer, *,
        changes: ChangeSource | None = None, sign_of_life: Callable[[], float | None] | None = None,
        acknowledger: Acknowledger | None = None,
    ) -> None:  # fmt: skip
        require(predictor.codec is not None, "LanguageService, predictor", got="no codec", expected="one with a codec")
        self.predictor, self.log, self.offer = predictor, log, offer
        self.codec, model = cast(TextCodec, predictor.codec), predictor.model
        writer = EventWriter(log, config.topic, window_s=config.commit_window_s, max_waiting=config.max_waiting,
                             remember=config.remember_actions)  # fmt: skip
        pressure = Pressure(log.path.parent, min_free_bytes=config.min_free_bytes,
                            max_backlog_rows=config.max_backlog_rows)  # fmt: skip
        follower = None
        if changes is not None:
            follower = Follower(predictor.replica, changes, poll_s=config.poll_s, acknowledger=acknowledger)
        super().__init__(predictor, writer, config, pressure, follower, sign_of_life)
        settings = offer.settings
        self.desk = WritingDesk(predictor, self.codec, max_length=model.max_length, max_running=settings.max_running,
                                max_waiting=settings.max_waiting)  # fmt: skip
        self.bodies = BodyReader(offer.name, self.codec, settings, max_length=model.max_length,
                                 vocabulary=model.vocabulary)  # fmt: skip
        self.actions = RequestReader(ACTIONS, config)
        self.arms = Arms(Arm(MAIN, cast(RankPredictor, predictor), follower))  # arms ask for its version alone
        self.metrics = ServeMetrics(self._gauges, self._delays)
        self.readiness = _Practice(predictor, self.actions.columns, (1,) if config.warm_rows else ())

    def start(self) -> None:
        """Apply the versions that there are and begin to take requests."""
        self.writer.start()
        if self.follower is not None:
            self.follower.start()
        self.desk.start()
        self.readiness.start()

    def close(self) -> None:
        """Write to the end what was begun, make it durable, then end."""
        self.readiness.close()
        self.desk.close()
        if self.follower is not None:
            self.follower.stop()
        self.writer.close()

    def begin(self, request: WritingRequest, on_text: OnText | None = None) -> Begun:
        """Begin to write what was asked for.

        Raises:
            VersionError: If there is no version yet.
            CapacityError: If too much is being written, or the disk or the learner is too far behind.
        """
        if self.predictor.version.number < 0:
            raise VersionError("Model", got="no version yet", expected="one published version",
                               do="Wait until the learner has published.")  # fmt: skip
        self.pressure.check()
        key = f"{'chatcmpl' if request.chat else 'cmpl'}-{secrets.token_hex(16)}"
        saying = Saying(key, int(time.time()), self.offer.name, request, self.codec)
        order = self.desk.submit(list(_tasks(request)), on_text)
        durable: Future[Written] = Future()
        durable.set_running_or_notify_cancel()  # whoever waits may leave, but cannot cancel what is written down
        begun = Begun(saying, order, durable)
        order.done.add_done_callback(lambda _: self._log_order(begun))
        return begun

    def _log_order(self, begun: Begun) -> None:
        """Hand what was written to the log; the writing thread waits for nothing here."""
        error = begun.order.done.exception()
        try:
            if error is not None:
                raise error
            order, request = begun.order, begun.saying.request
            self.metrics.rows.inc(len(order.writings))
            rows = completion_rows(order, request, begun.saying.key, time.time_ns() // 1000)
            if not rows:
                begun.durable.set_result(Written(0))
                return
            written = [self.writer.submit(part) for part in rows]
        except BaseException as failure:  # noqa: BLE001  whoever waits has to hear of it
            begun.durable.set_exception(failure)
            return
        written[-1].add_done_callback(lambda _: _passed_on(written, begun.durable))  # they are committed in order

    def compare(self, prompt: object, messages: object) -> Begun:
        """Begin two completions of one prompt for a person to choose from.

        Args:
            prompt: A text; None: none is given.
            messages: A conversation; None: none is given. Without either the server chooses among its own prompts.

        Raises:
            SchemaError: If it cannot be read, or there is nothing to choose from.
            ConfigError: If this server takes the likeliest token, so that both would be the same.
            VersionError, CapacityError: As `begin`.
        """
        settings, ends = self.offer.settings, () if self.codec.end is None else (self.codec.end,)
        require(settings.temperature > 0, "Comparison", got="a server with temperature 0", expected="one that draws",
                do="At temperature 0 both completions are the same.")  # fmt: skip
        tokens = self.bodies.asked(prompt, messages, self.offer.prompts)
        room = self.bodies.room(tokens)
        how = GenerateConfig(max_tokens=min(settings.usual_tokens, room), ends=ends, temperature=settings.temperature,
                             top_p=settings.top_p)  # fmt: skip
        return self.begin(WritingRequest(prompts=(tokens,), count=2, config=how, chat=self.codec.converses))

    def feedback(self, actions: Events) -> Future[Written]:
        """Hand votes and rewards to the log; the future is done when they are durable.

        Raises:
            SchemaError: If they mean nothing here.
            CapacityError: If the disk or the learner is too far behind.
        """
        self.pressure.check()
        return self.writer.submit(votes(actions))

    def models(self) -> dict[str, object]:
        """Return what clients of the OpenAI protocol read of `GET /v1/models`."""
        version = self.predictor.version.number
        published = 0 if self.follower is None else self.follower.source.published_at() // 1_000_000
        model = {"id": self.offer.name, "object": "model", "created": published, "owned_by": "headrace",
                 "version": version, "max_length": self.predictor.model.max_length}  # fmt: skip
        return {"object": "list", "data": [model]}

    def health(self) -> dict[str, object]:
        """Return how the service is, as plain values."""
        desk = self.desk
        return {**super().health(), "writing": {"running": desk.running, "waiting": desk.waiting}}

    def _gauges(self) -> Iterable[Reading]:
        yield from super()._gauges()
        yield "headrace_completions_running", "Completions that are being written.", [({}, float(self.desk.running))]
        yield "headrace_completions_waiting", "Completions that wait for their turn.", [({}, float(self.desk.waiting))]
        yield "headrace_completions_written", "Completions that were written.", [({}, float(self.desk.written))]


class _Practice(Readiness):
    """Writes one completion that nobody asked for, so that the first real one is not the slow one."""

    def practise(self, rows: int) -> None:
        """Write a token or two; the weights are laid out for generation on the way."""
        _, decoder = cast(LanguagePredictor, self.predictor).current()
        generate(decoder, jagged([[0]]), GenerateConfig(max_tokens=1 + rows), [0])


def _tasks(request: WritingRequest) -> Iterable[Task]:
    """Yield what has to be written: the choices of the first prompt, of the second, and so on."""
    seed = secrets.randbits(62) if request.seed is None else request.seed
    for place in range(len(request.prompts) * request.count):
        own = (seed + place * _STEP) & _MASK if place else seed
        yield Task(prompt=request.prompts[place // request.count], config=request.config, seed=own,
                   stops=request.stops, top=request.top or 0)  # fmt: skip


def _passed_on(written: Sequence[Future[Written]], durable: Future[Written]) -> None:
    errors = [error for one in written if (error := one.exception()) is not None]
    if errors:
        durable.set_exception(errors[0])
        return
    durable.set_result(Written(sum(one.result().accepted for one in written)))
