"""What a recipe of a language model returns: one frozen configuration of a model that is served and learns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from headrace.config import require
from headrace.data import JoinConfig
from headrace.data.votes import PREFER
from headrace.feedback.reward import REWARD, Rewarder
from headrace.learn import GroupCredit, PolicyConfig, PreferenceConfig
from headrace.nn import LoRASettings
from headrace.objectives import PPO, Reinforce
from headrace.online.config import OnlineConfig
from headrace.online.layout import EVENTS
from headrace.online.trimming import LogRetention
from headrace.publish import Retention
from headrace.serve.generate import GenerateConfig
from headrace.serve.language_service import Offer
from headrace.serve.language_settings import LanguageSettings
from headrace.types import Events

ASKED = "asked"
"""Topic of what people ask and say beside a generator's events."""
AHEAD_S = 60.0
"""How far a vote's time may be ahead of its arrival; one wrong clock must not end everybody's windows."""


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Completions that a generator writes and a rewarder judges, without anybody asking.

    Attributes:
        prompts: Returns all of them: rows with `key`, `item`, `kind`, `event_time`, and `prompt_ids` or `prompt`. The
            same rows every time.
        rewarder: Returns who judges; anything of `headrace.feedback` that rewards.
        config: How completions are written.
        behind: Versions that the generator stays behind the newest one. 0: it waits for each (synchronous). With k,
            rollout i is written by version i - k, always: writing and learning overlap, and the run is the same
            whenever its processes are killed.

    Raises:
        ConfigError: If the bound is negative, or completions are not drawn from the model's own distribution.
    """

    prompts: Callable[[], Events]
    rewarder: Callable[[], Rewarder]
    config: GenerateConfig = field(default_factory=GenerateConfig)
    behind: int = 0

    def __post_init__(self) -> None:
        require(self.behind >= 0, "Rollouts.behind", got=self.behind, expected="0 or more versions")
        plain = self.config.top_k == 0 and self.config.top_p == 1 and self.config.temperature > 0
        require(plain, "Rollouts.config", got=self.config, expected="no top_k, no top_p, and a temperature above 0",
                do="Policy gradients need the probabilities that tokens were drawn with.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """Learning from what completions are worth.

    Attributes:
        objective: The loss; its temperature is that of the completions that are learned from.
        policy: How rewards become steps.
        rollouts: Who writes and who judges; None: rewards come from people, through `POST /v1/feedback`.

    Raises:
        ConfigError: If the objective's temperature is not that of the rollouts, or completions of an earlier version
            would be learned as if the present one had drawn them.
    """

    objective: PPO | Reinforce = field(default_factory=PPO)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollouts: Rollouts | None = None

    def __post_init__(self) -> None:
        drawn = self.objective.temperature if self.rollouts is None else self.rollouts.config.temperature
        require(drawn == self.objective.temperature, "Rewards.objective, temperature", got=self.objective.temperature,
                expected=f"{drawn:g}, as completions are drawn")  # fmt: skip
        alone = self.rollouts is None and isinstance(self.policy.credit, GroupCredit)
        require(not alone or self.policy.credit == GroupCredit(baseline="none"), "Rewards.policy, credit",
                got="advantages against other answers to the same prompt", expected="a critic, or no baseline",
                do="People reward one completion at a time.")  # fmt: skip
        stale = self.rollouts is None or self.rollouts.behind > 0
        plain = isinstance(self.objective, Reinforce) and self.objective.corrected == 0
        require(not (stale and plain), "Rewards.objective", got="Reinforce without a correction",
                expected="one that corrects for the version that drew a completion",
                do="Reinforce(corrected=2.0), or PPO; or rollouts with behind=0.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A language model that is served, voted on or rewarded, and learns.

    Attributes:
        name: For people, and as `model` in requests.
        base: Folder of the model that everything begins with: `config.json`, safetensors, `tokenizer.json`.
        learn: From preferences (`PreferenceConfig`) or from rewards (`Rewards`).
        lora: Learn adapters of this kind, and publish those alone; None: all weights learn.
        adapter: Folder of adapters as `peft` writes them, to begin with and to learn further, in place of `lora`.
        lr: Learning rate (Adam).
        max_norm: Longest gradient; longer ones are shortened.
        batch_rows: Examples that are learned together; each such batch gives a version.
        behind: Versions that the writer of a completion may be behind the learner; what is older is left out. None:
            any number for what people say, `rollouts.behind` for rollouts.
        window_s: How long after a completion votes and rewards are waited for.
        serving: Limits, and what holds where a request does not say.
        prompts: What people are shown at `/preferences`.
        checkpoint_every: Versions between two manifests of the learner.
        snapshot_every: Versions between two full snapshots for replicas.
        retention: How much of the change log is kept for slow replicas, and how many snapshots.
        logs: How long events and examples are kept once they were read.
        durability: What the logs survive: `power` loss, or the death of the `process`.
        seed: Of everything random; the settings of learning have none of their own here.
        notes: Sentences for the report.

    Raises:
        ConfigError: If a value cannot work, or there is no such folder.
    """

    name: str
    base: Path
    learn: PreferenceConfig | Rewards = field(default_factory=PreferenceConfig)
    lora: LoRASettings | None = None
    adapter: Path | None = None
    lr: float = 1e-4
    max_norm: float = 1.0
    batch_rows: int = 16
    behind: int | None = None
    window_s: float = 86_400.0
    serving: LanguageSettings = field(default_factory=LanguageSettings)
    prompts: tuple[str, ...] = ()
    checkpoint_every: int = 5
    snapshot_every: int = 20
    retention: Retention = field(default_factory=Retention)
    logs: LogRetention = field(default_factory=LogRetention)
    durability: Literal["power", "process"] = "process"
    seed: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.name) and self.name.isprintable(), "LanguageConfig.name", got=self.name, expected="a name")
        require(Path(self.base).is_dir(), "LanguageConfig.base", got=str(self.base), expected="a folder with a model")
        require(self.adapter is None or Path(self.adapter).is_dir(), "LanguageConfig.adapter", got=str(self.adapter),
                expected="a folder with adapters")  # fmt: skip
        require(self.adapter is None or self.lora is None, "LanguageConfig.lora", got=self.lora,
                expected="None beside adapters, which say of what kind they are")  # fmt: skip
        for name in ("lr", "max_norm", "window_s"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"LanguageConfig.{name}", got=value, expected="a positive number")
        for name in ("batch_rows", "checkpoint_every", "snapshot_every"):
            require(getattr(self, name) >= 1, f"LanguageConfig.{name}", got=getattr(self, name),
                    expected="a positive integer")  # fmt: skip
        require(self.behind is None or self.behind >= 0, "LanguageConfig.behind", got=self.behind, expected="0 or more")
        rollouts = self.rollouts
        if rollouts is not None:
            require(self.behind is None or self.behind >= rollouts.behind, "LanguageConfig.behind", got=self.behind,
                    expected=f"at least {rollouts.behind}, as rollouts are")  # fmt: skip
            require(rollouts.behind < self.snapshot_every, "LanguageConfig.snapshot_every", got=self.snapshot_every,
                    expected=f"more than {rollouts.behind}, the versions that rollouts are behind")  # fmt: skip
        learn = self.learn.policy if isinstance(self.learn, Rewards) else self.learn
        require(learn.seed in (0, self.seed), f"LanguageConfig.learn, {type(learn).__name__}.seed", got=learn.seed,
                expected=f"none: {self.seed} is the run's", do="Set LanguageConfig.seed.")  # fmt: skip
        if isinstance(self.learn, Rewards) and rollouts is None:
            self._check_served(self.learn.objective.temperature)

    def _check_served(self, temperature: float) -> None:
        """Refuse to serve by default what would not be learned."""
        served = self.serving
        require(served.temperature == temperature, "LanguageConfig.serving, temperature", got=served.temperature,
                expected=f"{temperature:g}, as the objective's",
                do="What is drawn otherwise is not learned.")  # fmt: skip
        require(served.top_p == 1, "LanguageConfig.serving, top_p", got=served.top_p, expected="1",
                do="Policy gradients need the probabilities that tokens were drawn with.")  # fmt: skip

    @property
    def rollouts(self) -> Rollouts | None:
        """Who writes without being asked; None: nobody."""
        return self.learn.rollouts if isinstance(self.learn, Rewards) else None

    @property
    def most_behind(self) -> int | None:
        """The bound on staleness that holds; None: there is none.

        Rewards always have one, be it beyond all versions: it also leaves out what is of no known version.
        """
        if self.behind is not None or isinstance(self.learn, PreferenceConfig):
            return self.behind
        return sys.maxsize if self.rollouts is None else self.rollouts.behind

    @property
    def topic(self) -> str:
        """Topic of the event log for what people ask a server, and say.

        Beside a generator it is one of its own that nobody learns from: the generator's ends with its prompts, and what
        it writes has to be the same however often it is killed.
        """
        return EVENTS if self.rollouts is None else ASKED

    @property
    def join(self) -> JoinConfig:
        """How completions meet what is said of them."""
        kind = PREFER if isinstance(self.learn, PreferenceConfig) else REWARD
        return JoinConfig(window_s=self.window_s, lateness_s=0.0, positive=(kind,), value="value",
                          max_ahead_s=None if self.rollouts is not None else AHEAD_S)  # fmt: skip

    @property
    def offer(self) -> Offer:
        """What a server of it offers."""
        return Offer(name=self.name, settings=self.serving, prompts=self.prompts)


RunConfig: TypeAlias = OnlineConfig | LanguageConfig
"""A run with logs between its processes."""
