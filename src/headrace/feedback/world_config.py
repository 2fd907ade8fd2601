"""What a simulated world is made of: every number of it, validated, with nothing hidden in code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrace.config import require

MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A scenario in which items are shown: a feed, a search page, a mail.

    Attributes:
        name: The value of the `scenario` column.
        share: Share of requests, relative to the other places.
        appeal: Added to the logit of a click; searchers click more than strollers.
        taste: Multiplies the influence of the user's taste.
        focus: How fast attention falls with the position: the item at position k is seen with probability k**-focus.
    """

    name: str
    share: float = 1.0
    appeal: float = 0.0
    taste: float = 1.0
    focus: float = 0.5

    def __post_init__(self) -> None:
        require(bool(self.name), "Place.name", got=self.name, expected="a non-empty name")
        require(self.share > 0, f"Place '{self.name}': share", got=self.share, expected="a positive number")
        require(self.focus >= 0, f"Place '{self.name}': focus", got=self.focus, expected="0 or more")


@dataclass(frozen=True, kw_only=True)
class DelayPart:
    """One log-normal part of the click delay: its share, its median and its spread (sigma of the logarithm)."""

    share: float
    median_s: float
    sigma: float

    def __post_init__(self) -> None:
        for name in ("share", "median_s", "sigma"):
            value = getattr(self, name)
            require(value > 0 and math.isfinite(value), f"DelayPart.{name}", got=value, expected="a positive number")


SECONDS_TO_HOURS = (
    DelayPart(share=0.75, median_s=15.0, sigma=0.8),
    DelayPart(share=0.20, median_s=600.0, sigma=1.0),
    DelayPart(share=0.05, median_s=7200.0, sigma=0.6),
)
"""Most clicks come within a minute, a fifth within the hour, some in the evening."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A world. The defaults give about 6 % clicks and a Bayes-optimal AUC of about 0.85.

    Attributes:
        seed: Everything random follows from it.
        requests: Length of the stream in requests; None: endless.
        requests_per_s: Requests per second of event time.
        start_us: Event time of the first request.
        candidates: Items per request; all are shown, the ranking decides the positions.
        users: People. Bots are added to them.
        items: Items alive at any time; a multiple of `candidates`. One that dies is replaced by one just born.
        categories: Item categories; an item resembles its category.
        taste_dim: Dimensions of the space in which tastes and items live.
        drift_s: Typical time in which a taste turns once around; infinity: tastes stay.
        item_life_s: Typical life of an item; infinity: items stay.
        bias: Logit of a click on an average item seen by an average user.
        taste: Strength of the match between user and item in the logit.
        quality: Strength of an item's own quality in the logit.
        trend: Mean height of the wave that an item rides in the first part of its life, in the logit.
        places: The scenarios.
        delay: The parts of the click delay.
        delay_longest_s: Longer delays are cut to this one.
        lag_s: Mean time (exponential) between a click and its arrival, so that clicks arrive out of order.
        bots: Users that click much and at random, without looking.
        bot_share: Share of requests that come from bots.
        bot_click: Probability that a bot clicks an item.
        explore: The logging policy of the open loop shuffles this share of its lists; the others it sorts by quality.
    """

    seed: int = 0
    requests: int | None = None
    requests_per_s: float = 2.0
    start_us: int = 1_700_000_000 * MICROSECONDS
    candidates: int = 10
    users: int = 2_000
    items: int = 1_000
    categories: int = 20
    taste_dim: int = 8
    drift_s: float = 4 * 86_400.0
    item_life_s: float = 86_400.0
    bias: float = -3.4
    taste: float = 1.2
    quality: float = 0.5
    trend: float = 0.7
    places: tuple[Place, ...] = (Place(name="home", share=0.7), Place(name="search", share=0.3, appeal=0.6, focus=1.0))
    delay: tuple[DelayPart, ...] = SECONDS_TO_HOURS
    delay_longest_s: float = 86_400.0
    lag_s: float = 0.5
    bots: int = 2
    bot_share: float = 0.01
    bot_click: float = 0.3
    explore: float = 0.2

    def __post_init__(self) -> None:
        for name in ("candidates", "users", "items", "categories", "taste_dim"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, name, got=value, expected="a positive integer")
        for name in ("requests_per_s", "drift_s", "item_life_s", "delay_longest_s"):
            require(getattr(self, name) > 0, name, got=getattr(self, name), expected="a positive number")
        for name in ("bot_share", "bot_click", "explore"):
            require(0 <= getattr(self, name) <= 1, name, got=getattr(self, name), expected="a share from 0 to 1")
        for name in ("bias", "taste", "quality", "trend"):
            require(math.isfinite(getattr(self, name)), name, got=getattr(self, name), expected="a finite number")
        require(
            self.items % self.candidates == 0 and self.items >= 2 * self.candidates, "items", got=self.items,
            expected=f"a multiple of candidates={self.candidates}, at least {2 * self.candidates}",
            do="The candidates of one request are drawn from that many shelves.",
        )  # fmt: skip
        require(self.requests is None or self.requests > 0, "requests", got=self.requests, expected="None or positive")
        require(self.start_us >= 0, "start_us", got=self.start_us, expected="µs since the epoch, 0 or more")
        require(self.lag_s >= 0, "lag_s", got=self.lag_s, expected="0 or more seconds")
        require(self.bots >= 0, "bots", got=self.bots, expected="0 or more")
        require(
            self.bots > 0 or self.bot_share == 0, "bot_share", got=self.bot_share,
            expected="0 when there are no bots", do="Set bots=1 or bot_share=0.",
        )  # fmt: skip
        require(bool(self.places), "places", got=self.places, expected="at least one Place")
        names = [place.name for place in self.places]
        require(len(set(names)) == len(names), "places", got=names, expected="different names")
        require(bool(self.delay), "delay", got=self.delay, expected="at least one DelayPart")


@dataclass(frozen=True, slots=True)
class FeatureDescription:
    """One feature of the world's impressions, as plain data: a composition builds its schema from these.

    Attributes:
        name: Column name.
        kind: `id` (string column), `dense` (float32 column) or `scenario` (string column that names the place).
        transform: For dense features: `identity` or `log1p`.
        serve_as: Value to serve the feature at, when the real one is not known before the ranking; else None.
        about: What it is.
    """

    name: str
    kind: str
    about: str
    transform: str = "identity"
    serve_as: float | None = None


REFERENCE_POSITION = 1.0
"""What requests carry as `position`: before the ranking nobody knows it, and the first place is seen by everyone."""

FEATURES = (
    FeatureDescription("user", "id", "who asks; a few of the users are bots, which their names do not tell"),
    FeatureDescription("item", "id", "what is shown; the name tells nothing"),
    FeatureDescription("category", "id", "the item's category, known from birth"),
    FeatureDescription("scenario", "scenario", "where it is shown"),
    FeatureDescription("age_h", "dense", "hours since the item was born", transform="log1p"),
    FeatureDescription("position", "dense", "place in the list, from 1", serve_as=REFERENCE_POSITION),
)
"""The features of `World`'s impressions, in column order."""
