"""A language model that learns from rewards, in one process: from one configuration to parts, through `loop.run`.

Prompts are requests, completions are predictions of the published version, a reward model is the user who answers, and
the joiner, learner, publisher and checkpoint are those of every run. A hidden judge watches; what it says is written
down beside the rewards, and nothing learns from it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from headrace.config import fingerprint, known_name, require, write_run_record
from headrace.data import (
    EmbeddedLog,
    EventJoin,
    EventJoiner,
    JoinConfig,
    MemorySource,
    TokenCollator,
    completion_batch,
)
from headrace.data.passages import prompts, rows_of_tokens
from headrace.feedback import ModelReward, RewardFeedback
from headrace.learn import CriticCredit, GroupCredit, ManifestCheckpoint, PolicyConfig, PolicyLearner
from headrace.loop import EveryExamples, Loop, run
from headrace.nn import ActorCritic, CausalSettings, CausalTransformer, ScoreModel
from headrace.objectives import PPO
from headrace.objectives.tokens import joined
from headrace.online.rewarded_watch import Point, Watch, judged, timed, watched
from headrace.online.writing import DOMAIN, GENERAL, Writing, WritingConfig
from headrace.optim import clip_norm
from headrace.protocols import Publisher
from headrace.publish import LogPublisher, Replica
from headrace.serve import GenerateConfig, LanguagePredictor, generate
from headrace.types import Change, Events, Report, State, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardedConfig:
    """A language model from rewards, from start to end.

    Attributes:
        name: For people.
        writing: The model that it starts from, the texts, the reward model and the judge.
        start: `tuned`: after fine-tuning on demonstrations; `base`: as it was pre-trained.
        policy: How rewards become steps.
        objective: The loss.
        critic: `head`: on the policy's own states; `reward`: a model of its own, begun as the reward model.
        reward_sizes: Sizes of a reward model that begins untrained; None: it begins as the base model.
        in_domain: Share of the prompts that are beginnings of reviews; the others are of books.
        rows: Completions of a rollout.
        iterations: Rollouts.
        lr: Learning rate (Adam).
        seed: Seed of prompts, draws and orders, that of fine-tuning among them.

    Raises:
        ConfigError: If a value cannot work.
    """

    name: str
    writing: WritingConfig = field(default_factory=WritingConfig)
    start: Literal["tuned", "base"] = "tuned"
    policy: PolicyConfig = field(default_factory=lambda: PolicyConfig(epochs=2, minibatch_rows=32))
    objective: PPO = field(default_factory=lambda: PPO(value_weight=0.5))
    critic: Literal["head", "reward"] = "head"
    reward_sizes: CausalSettings | None = None
    in_domain: float = 1.0
    rows: int = 64
    iterations: int = 24
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.name), "RewardedConfig.name", got=self.name, expected="a name")
        known_name("RewardedConfig.start", self.start, ["tuned", "base"])
        known_name("RewardedConfig.critic", self.critic, ["head", "reward"])
        require(0 <= self.in_domain <= 1, "RewardedConfig.in_domain", got=self.in_domain, expected="a share, 0 to 1")
        for name in ("rows", "iterations"):
            require(getattr(self, name) >= 1, f"RewardedConfig.{name}", got=getattr(self, name), expected="1 or more")
        require(0 < self.lr < math.inf, "RewardedConfig.lr", got=self.lr, expected="a positive number")
        credit = self.policy.credit
        require(credit != GroupCredit(baseline="others"), "RewardedConfig.policy, credit", got=credit,
                expected='a critic, or GroupCredit(baseline="none")',
                do="Every prompt is asked once: there are no other answers to compare with.")  # fmt: skip
        require(self.critic == "head" or isinstance(credit, CriticCredit), "RewardedConfig.critic", got=self.critic,
                expected="'head' with GroupCredit, which asks no critic")  # fmt: skip


class RewardedRun:
    """One run of a `RewardedConfig`.

    With a folder everything is durable there (versions, snapshots, checkpoints, the curve), and a run that was killed
    goes on to the very same weights, under the very same configuration. Without one nothing is written.

    Args:
        config: What to run.
        folder: Where to keep it; None: nowhere.
        writing: Parts made already, to be shared between runs of one `config.writing`.
        on_point: Called after every rollout with its numbers and with completions to read.
        stop: Asked before every rollout; True ends the run, to be continued another time.

    Attributes:
        points: What every rollout was like; see `Watched`.
        policy: The policy, as far as it has learned.
        reference: The model that distance is measured from.
    """

    def __init__(
        self, config: RewardedConfig, folder: Path | None = None, *, writing: Writing | None = None,
        on_point: Callable[[Point, Sequence[str]], None] | None = None, stop: Callable[[], bool] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.folder, self.stop = config, folder, stop
        self.writing = Writing(config.writing) if writing is None else writing
        require(self.writing.config == config.writing, "RewardedRun, writing", got="parts of another configuration",
                expected="those of config.writing")  # fmt: skip
        self.policy = self.writing.tuned(config.seed) if config.start == "tuned" else self.writing.base()
        self.reference = copy.deepcopy(self.policy)
        self.reward = settled(self.writing, config.reward_sizes, self.reference,
                              temperature=config.objective.temperature)  # fmt: skip
        self._watch = Watch(on_point)

    @property
    def points(self) -> list[Point]:
        """What every rollout was like: `reward`, `kl`, `gold` and more, in order."""
        return self._watch.points

    @property
    def samples(self) -> list[str]:
        """Completions of the last rollout, with their prompts."""
        return self._watch.samples

    def run(self) -> Report:
        """Run to the end, or until `stop`; return numbers of the last rollouts.

        Raises:
            ConfigError: If the folder has the run of another configuration; nothing was changed.
            NonFiniteLoss: If a step is not finite; nothing of it was learned.
        """
        if self.folder is not None:
            self._check_folder(self.folder)
        loop = self._loop()
        if self.folder is not None:
            write_run_record(self.folder, self.config, seed=self.config.seed, data={})
        report = run(loop)
        self._watch.finish(report)
        report.settings["fingerprint"] = fingerprint(self.config)
        return report

    def _check_folder(self, folder: Path) -> None:
        state = ManifestCheckpoint(folder / "checkpoint").load()
        found = None if state is None else cast(State, state["learner"]).get("config")
        wanted = fingerprint(self.config)
        require(state is None or found == wanted, f"Run folder {folder}", got=f"a run with the settings {found!r}",
                expected=wanted, do="Go on with its settings (run.json has them), or take another folder.")  # fmt: skip

    def _loop(self) -> Loop:
        own, served = self.config, self.writing.base()
        publisher, replica = self._publisher(), Replica({}, served)
        if isinstance(publisher, LogPublisher) and publisher.last().number >= 0:
            replica.catch_up(publisher)
        codec = self.writing.codec
        how = GenerateConfig(max_tokens=own.writing.answer, ends=() if codec.end is None else (codec.end,),
                             temperature=own.objective.temperature)  # fmt: skip
        predictor = LanguagePredictor(served, replica, how, codec=codec, seed=own.seed, batch_rows=own.rows)
        feedback = RewardFeedback(ModelReward(self.reward, own.rows))
        join = EventJoin(JoinConfig(window_s=3600.0, lateness_s=0.0, positive=("reward",), value="reward"))
        gold = judged(feedback, self.writing, self._watch)
        return Loop(
            source=MemorySource([self._requests()]), predictor=timed(predictor, self._watch),
            feedback=gold, joiner=EventJoiner(join, TokenCollator(completion_batch, own.rows)),
            learner=watched(self._learner(), self._watch, fingerprint(own)), publisher=publisher,
            cadence=EveryExamples(own.rows), read_rows=own.rows, stop=self.stop,
            checkpoint=None if self.folder is None else ManifestCheckpoint(self.folder / "checkpoint"),
        )  # fmt: skip

    def _publisher(self) -> Publisher:
        if self.folder is None:
            return _NewestOnly()
        self.folder.mkdir(parents=True, exist_ok=True)
        return LogPublisher(EmbeddedLog(self.folder / "changes.db"), self.folder / "snapshots")

    def _learner(self) -> PolicyLearner:
        own, critic = self.config, None
        if own.critic == "reward":
            critic = copy.deepcopy(self.reward)
            nn.init.zeros_(critic.head.weight)
            nn.init.zeros_(critic.head.bias)
            critic.get_buffer("centre").zero_()
            critic.get_buffer("scale").fill_(1.0)
        model = ActorCritic(self.policy, critic)
        adam = clip_norm(torch.optim.Adam(model.parameters(), lr=own.lr, eps=1e-5, betas=(0.9, 0.98)), 1.0)
        return PolicyLearner(model, copy.deepcopy(self.reference), adam, own.objective, own.policy)

    def _requests(self) -> Events:
        """Return the prompts of the whole run: every rollout has the same share of each domain, mixed."""
        own, draw = self.config, np.random.default_rng(self.config.seed)
        inside = round(own.rows * own.in_domain)
        counts = {DOMAIN: inside, GENERAL: own.rows - inside}
        streams = {name: _cycled(self.writing.asked(name), count * own.iterations, draw)
                   for name, count in counts.items()}  # fmt: skip
        parts, domains = list[Tensor](), list[str]()
        for turn in range(own.iterations):
            order = draw.permutation(own.rows)
            names = [name for name, count in counts.items() for _ in range(count)]
            rows = torch.cat([streams[name][turn * count : (turn + 1) * count] for name, count in counts.items()])
            parts.append(rows[torch.from_numpy(order)])
            domains += [names[place] for place in order]
        return prompts(torch.cat(parts), domains=domains)


def settled(
    writing: Writing, sizes: CausalSettings | None, reference: CausalTransformer, rows: int = 256, *,
    temperature: float = 1.0,
) -> ScoreModel:  # fmt: skip
    """Return a reward model whose scores of completions of the reference have mean 0 and deviation 1."""
    model, asked = writing.reward(sizes), writing.held_out(DOMAIN, rows)
    how = GenerateConfig(max_tokens=writing.config.answer, temperature=temperature)
    made = generate(reference.decoder(), rows_of_tokens(asked), how, range(len(asked)))
    model.settle(joined(rows_of_tokens(asked), made.tokens).tokens)
    return model


class _NewestOnly:
    """A publisher in memory, for runs that nobody follows: numbers without gaps, only the newest change is kept."""

    def __init__(self) -> None:
        self._newest: Change | None = None

    def publish(self, change: Change) -> Change:
        """Take the next version; the newest one again changes nothing."""
        last = self.last().number
        require(change.version.number in (last, last + 1), "Published versions", got=f"version {change.version.number}",
                expected=f"version {last + 1}")  # fmt: skip
        if change.version.number > last:
            self._newest = change
        assert self._newest is not None
        return self._newest

    def last(self) -> Version:
        """Return the newest version."""
        return Version(-1) if self._newest is None else self._newest.version


def _cycled(rows: Tensor, count: int, draw: np.random.Generator) -> Tensor:
    """Return so many rows, each pass over them in another order."""
    turns = -(-count // max(len(rows), 1)) if count else 0
    order = [draw.permutation(len(rows)) for _ in range(turns)]
    return rows[torch.from_numpy(np.concatenate(order)[:count])] if order else rows[:0]
