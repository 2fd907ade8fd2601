"""What learning from rewards starts from: a small language model of real texts, a reward model, and a judge.

The model learns to write like reviews of films and like classic books. Reviews are the domain: somebody liked a film or
did not. A reward model learns from pairs of passages which of two a friendlier reviewer wrote; a judge of another kind
learns the same from other films, and says what was gained. Neither the policy nor the reward model ever sees the judge.

Whatever takes long is fitted once and kept in the cache under a name made of all that it depends on.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from headrace.config import fingerprint, require
from headrace.data import TextCodec, completion_batch, preference_batch, text_batch
from headrace.data.datasets.reviews import Texts, books, reviews
from headrace.data.download import cache_folder
from headrace.data.passages import demonstrations, passages, preferences, rows_of_tokens
from headrace.data.token_columns import token_column
from headrace.evaluate.language_tasks import Choice, choices
from headrace.feedback.text_judge import TextJudge, broken
from headrace.learn.language_fit import LanguageFit, fit_language, kept
from headrace.nn import CausalSettings, CausalTransformer, ScoreModel
from headrace.nn.token_layout import taken
from headrace.objectives import BradleyTerry, NextToken
from headrace.serve import GenerateConfig, generate
from headrace.types import Events

DOMAIN, GENERAL = "reviews", "books"
LIKED, DISLIKED = 7, 4
"""Ratings from and up to which a review is friendly or not; the data have none between."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Texts by what they are for; no film and no book serves two purposes.

    Attributes:
        reviews: Parts `base` (to learn to write), `reward`, `judge`, `asked` (prompts to learn from) and `held`.
        books: Parts `base`, `asked` and `held`.
    """

    reviews: Mapping[str, Texts]
    books: Mapping[str, Texts]

    def digest(self) -> str:
        """Return what tells these texts, and how they are parted and rated, from any others.

        Cost: every text once, about a tenth of a second for the real ones.
        """
        found = hashlib.sha256()
        for kind, parts in (("reviews", self.reviews), ("books", self.books)):
            for name, texts in parts.items():
                found.update(f"{kind}/{name}: {len(texts)}\n".encode())
                found.update(np.ascontiguousarray(texts.ratings, "<i8").tobytes())
                for text, owner in zip(texts.texts, texts.owners, strict=True):
                    for one in (owner.encode(), text.encode()):
                        found.update(len(one).to_bytes(8, "little"))
                        found.update(one)
        return found.hexdigest()[:16]


def real_corpus() -> Corpus:
    """Return reviews of films and classic books, from the data folder.

    Raises:
        DataError: If a file is missing.
    """
    return Corpus(reviews().parts({"base": 0.4, "reward": 0.25, "judge": 0.2, "asked": 0.1, "held": 0.05}),
                  books(60).parts({"base": 0.75, "asked": 0.1, "held": 0.15}))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingConfig:
    """Sizes of everything that learning from rewards starts from.

    Attributes:
        corpus: Reads the texts.
        vocabulary: Tokens of the byte-level vocabulary, trained on the texts of the base model.
        width: Of the language model.
        layers: Of the language model.
        heads: Of the language model.
        prompt: Tokens of a prompt, the begin token counted.
        answer: Tokens of a completion.
        base_passages: Passages that the base model learns, twice as long as prompt and completion together; half of
            them of reviews.
        shown: Demonstrations that fine-tuning learns, of friendly reviewers; as many of books.
        pairs: Pairs of opinions that the reward model learns, and half as many of attempts; see `Writing.opinions`.
        asked: Prompts of each domain to learn from.
        general: Held-out passages of each domain by which general ability is judged.
        base: How the base model is fitted.
        tuning: How fine-tuning is fitted.
        reward: How the reward model is fitted.
        seed: Seed of weights and draws.

    Raises:
        ConfigError: If a number is not positive.
    """

    corpus: Callable[[], Corpus] = real_corpus
    vocabulary: int = 2048
    width: int = 64
    layers: int = 3
    heads: int = 2
    prompt: int = 7
    answer: int = 20
    base_passages: int = 30_000
    shown: int = 1_000
    pairs: int = 6_000
    asked: int = 3_000
    general: int = 200
    base: LanguageFit = field(default_factory=lambda: LanguageFit(lr=4e-3))
    tuning: LanguageFit = field(default_factory=lambda: LanguageFit(lr=1e-3, epochs=2))
    reward: LanguageFit = field(default_factory=lambda: LanguageFit(lr=7e-4, epochs=2))
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("prompt", "answer", "base_passages", "shown", "pairs", "asked", "general"):
            require(getattr(self, name) >= 1, f"WritingConfig.{name}", got=getattr(self, name), expected="1 or more")

    @property
    def sizes(self) -> CausalSettings:
        """Sizes of the language model, the vocabulary at its largest."""
        length = 2 * (self.prompt + self.answer)
        return CausalSettings(vocabulary=self.vocabulary, width=self.width, layers=self.layers, heads=self.heads,
                              max_length=length)  # fmt: skip


class Writing:
    """The parts that a `WritingConfig` describes, made when they are first asked for.

    Args:
        config: Sizes.
        folder: Where fitted weights are kept; None: `language/` in the cache.

    Thread-safety: none; one thread asks.
    """

    def __init__(self, config: WritingConfig, folder: Path | None = None) -> None:
        self.config = config
        self._root = folder or cache_folder() / "language"

    # Texts -----------------------------------------------------------------------------------------------------------

    @cached_property
    def corpus(self) -> Corpus:
        """The texts."""
        return self.config.corpus()

    def _place(self, kind: str, *depends: object) -> Path:
        """Return the folder of something fitted; its name follows from the texts, and from what else it depends on."""
        return self._root / f"{kind}-{fingerprint((self._texts_digest, depends))}"

    @cached_property
    def _texts_digest(self) -> str:
        return self.corpus.digest()

    @cached_property
    def codec(self) -> TextCodec:
        """Turns text to tokens; its vocabulary is of the base model's texts."""
        own = self.config
        folder = self._place("codec", own.vocabulary)
        if not (folder / "tokenizer.json").is_file():
            texts = [*self.corpus.reviews["base"].texts[:4000],
                     *(text[:200_000] for text in self.corpus.books["base"].texts)]  # fmt: skip
            TextCodec.trained(texts, own.vocabulary).write(folder)
        return TextCodec.read(folder)

    def passages(self, domain: str, part: str, count: int, length: int, *, liked: bool | None = None) -> Tensor:
        """Return up to `count` passages (B, length + 1) of a part, mixed; of friendly or unfriendly reviews only."""
        return self._passages(domain, part, count, length, liked)[0]

    def _passages(
        self, domain: str, part: str, count: int, length: int, liked: bool | None = None
    ) -> tuple[Tensor, npt.NDArray[np.int64]]:
        texts = (self.corpus.reviews if domain == DOMAIN else self.corpus.books)[part]
        if liked is not None:
            texts = texts.take(texts.ratings >= LIKED if liked else texts.ratings <= DISLIKED)
        require(len(texts) > 0, "Corpus", got=f"no {domain} in part '{part}'", expected="texts")
        each = -(-count * 5 // 4 // len(texts))
        found, owners = passages(texts.texts, self.codec, length, per_text=each, seed=self.config.seed + len(part))
        order = np.random.default_rng(self.config.seed).permutation(len(found))[:count]
        return found[torch.from_numpy(order)], owners[order]

    @cached_property
    def _asked(self) -> dict[str, Tensor]:
        own = self.config
        return {domain: self.passages(domain, "asked", own.asked, own.prompt - 1) for domain in (DOMAIN, GENERAL)}

    def asked(self, domain: str) -> Tensor:
        """Return the prompts of a domain that a policy may learn from, (N, P)."""
        return self._asked[domain]

    def held_out(self, domain: str, count: int, *, liked: bool | None = None) -> Tensor:
        """Return prompts of a domain that no policy learns from, (N, P); beginnings of (un)friendly reviews only."""
        return self.passages(domain, "held", count, self.config.prompt - 1, liked=liked)

    @cached_property
    def general(self) -> dict[str, tuple[Tensor, dict[str, Choice]]]:
        """Held-out passages by domain, and the choices made from them; see `evaluate.language_tasks`."""
        own, found = self.config, {}
        for domain in (DOMAIN, GENERAL):
            rows, owners = self._passages(domain, "held", own.general, own.prompt + own.answer)
            found[domain] = (rows, choices(rows, torch.from_numpy(owners), own.seed))
        return found

    # Models ----------------------------------------------------------------------------------------------------------

    def base(self) -> CausalTransformer:
        """Return a model that has learned to write like reviews and books; yours to change."""
        return copy.deepcopy(self._base)

    @cached_property
    def _base(self) -> CausalTransformer:
        own = self.config
        sizes = replace(own.sizes, vocabulary=self.codec.vocabulary)
        model = CausalTransformer(sizes, seed=own.seed)
        key = (sizes, own.base_passages, own.base, own.seed)

        def build() -> None:
            fit_language(model, self._texts(), text_batch, NextToken(), own.base)

        kept(self._place("base", *key), model, build)
        return model.eval()

    def _texts(self) -> Events:
        own = self.config
        rows = torch.cat([self.passages(domain, "base", own.base_passages // 2, 2 * (own.prompt + own.answer) - 1)
                          for domain in (DOMAIN, GENERAL)])  # fmt: skip
        count = len(rows)
        return Events.from_columns({
            "key": [f"base/{row}" for row in range(count)], "kind": ["example"] * count, "event_time": [0] * count,
            "item": ["0"] * count, "tokens": token_column(rows_of_tokens(rows)),
        })  # fmt: skip

    def tuned(self, seed: int = 0) -> CausalTransformer:
        """Return the base model fine-tuned on demonstrations: friendly reviews, and as many passages of books.

        Args:
            seed: Another seed shows the demonstrations in another order.
        """
        own, model = self.config, self.base()

        def build() -> None:
            length = own.prompt + own.answer - 1
            shown = torch.cat((self.passages(DOMAIN, "base", own.shown, length, liked=True),
                               self.passages(GENERAL, "base", own.shown, length)))  # fmt: skip
            fit_language(model, demonstrations(shown, own.prompt), completion_batch, NextToken(completions=True),
                         replace(own.tuning, seed=seed))  # fmt: skip

        kept(self._place("tuned", own, seed), model, build)
        return model.eval()

    def reward(self, sizes: CausalSettings | None = None) -> ScoreModel:
        """Return a reward model: which of two texts a friendly reviewer wrote; its level is not settled yet.

        It learns where two texts begin to differ, from every place on; see `BradleyTerry`.

        Args:
            sizes: Of a trunk that begins untrained; None: it begins as the base model.
        """
        own = self.config
        trunk = self.base() if sizes is None else CausalTransformer(
            replace(sizes, vocabulary=self.codec.vocabulary), seed=own.seed + 1)  # fmt: skip
        model = ScoreModel(trunk, seed=own.seed)

        def build() -> None:
            rows = Events.concat([self.opinions("reward", own.pairs), self.attempts("reward", own.pairs // 2)])
            fit_language(model, rows, preference_batch, BradleyTerry(at="every", centred=0.01), own.reward)

        kept(self._place("reward", own, sizes), model, build)
        return model.eval()

    def opinions(self, part: str, count: int) -> Events:
        """Return pairs of passages that people wrote: a friendly reviewer's, and an unfriendly one's."""
        own = self.config
        length = own.prompt + own.answer - 1
        both = [self.passages(DOMAIN, part, count, length, liked=liked) for liked in (True, False)]
        rows = min(len(one) for one in both)
        return preferences(both[0][:rows], both[1][:rows], name=f"opinion/{part}")

    def attempts(self, part: str, count: int) -> Events:
        """Return pairs of answers to one beginning: what a friendly reviewer wrote, and what the base model writes."""
        own = self.config
        written = self.passages(DOMAIN, part, count, own.prompt + own.answer - 1, liked=True)
        asked, decoder, parts = rows_of_tokens(written[:, : own.prompt]), self._base.decoder(), list[Tensor]()
        how = GenerateConfig(max_tokens=own.answer)
        for rows in torch.split(torch.arange(len(written)), 256):
            made = generate(decoder, taken(asked, rows)[0], how, [own.seed * 1_000_003 + row for row in rows.tolist()])
            parts.append(made.tokens.values.view(len(rows), own.answer))
        own_words = torch.cat((written[:, : own.prompt], torch.cat(parts)), 1)
        return preferences(written, own_words, prompt=own.prompt, name=f"attempt/{part}")

    @torch.no_grad()
    def reward_accuracy(self, model: ScoreModel, count: int = 500) -> dict[str, float]:
        """Return the share of held-out pairs, of films that it does not know, that a reward model orders rightly."""
        pairs = {"opinions": self.opinions("held", count), "attempts": self.attempts("held", count)}
        return {name: BradleyTerry()(cast(nn.Module, model), preference_batch(rows)).parts["accuracy"]
                for name, rows in pairs.items()}  # fmt: skip

    @cached_property
    def judge(self) -> TextJudge:
        """Says how probably a text is a passage that a friendly reviewer really wrote; of films of its own."""
        own, texts = self.config, self.corpus.reviews["judge"].texts
        length = own.prompt + own.answer - 1
        good, bad = (self.codec.decode(rows_of_tokens(self.passages(DOMAIN, "judge", own.pairs, length, liked=liked)))
                     for liked in (True, False))  # fmt: skip
        return TextJudge.fitted(good, [*bad, *broken(good, own.seed)], texts, seed=own.seed)
