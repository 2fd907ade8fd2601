"""Where published versions come from and go to: the run's own folder, a folder of files, a Kafka topic.

A place is written as text: a path, or `kafka://broker:9092,broker:9092/topic`. Behind a question mark, joined by `&`,
`snapshots=PATH` names the folder of snapshots beside the topic, and `settings=FILE` a JSON file with further settings
of librdkafka (encryption, passwords), which are then on no command line and in no record of the run.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from headrace.config import known_name, require
from headrace.data.kafka import KafkaLog
from headrace.errors import ConfigError
from headrace.online.language_config import RunConfig
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.publish import (
    AcknowledgementFolder,
    Acknowledgements,
    Acknowledger,
    ChangeFolder,
    ChangeFolderWriter,
    ChangeReader,
    ChangeSource,
    ChangeTarget,
    ChangeTopic,
    ChangeTopicWriter,
    Mirror,
    run_id,
)
from headrace.publish.replica import MODES, Mode

KAFKA = "kafka"
LOCAL_POLL_S = 0.005
FAR_POLL_S = 0.05
"""Pause between two looks at a place that may be on another machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place of changes, as its text says: a folder, or a topic of a Kafka cluster with a folder of snapshots."""

    text: str
    folder: Path | None = None
    servers: str = ""
    topic: str = ""
    snapshots: Path | None = None
    settings: Path | None = None

    @property
    def name(self) -> str:
        """A short name that no other place has."""
        return f"copy-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"


def find_place(text: str) -> Place:
    """Return what a place's text means.

    Raises:
        ConfigError: If it is neither a path nor a Kafka address with a topic.

    Example:
        >>> find_place("kafka://one:9092,two:9092/shop-changes?snapshots=/mnt/shop").topic
        'shop-changes'
        >>> str(find_place("/mnt/shop").folder)
        '/mnt/shop'
    """
    require(bool(text), "Place of changes", got=text, expected="a path, or kafka://broker:9092/topic")
    if "://" not in text:
        return Place(text, folder=Path(text))
    parts = urlsplit(text)
    query = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme != KAFKA or not parts.netloc or "/" in parts.path.strip("/") or not parts.path.strip("/"):
        raise ConfigError("Place of changes", got=text, expected="a path, or kafka://broker:9092/topic",
                          do="Name the brokers and one topic.")  # fmt: skip
    if set(query) - {"snapshots", "settings"} or any(found != [found[0]] or not found[0] for found in query.values()):
        raise ConfigError("Place of changes", got=text, expected="snapshots=PATH and settings=FILE behind the question "
                          "mark, each once")  # fmt: skip
    paths = {name: Path(found[0]) for name, found in query.items()}
    return Place(text, servers=parts.netloc, topic=parts.path.strip("/"), snapshots=paths.get("snapshots"),
                 settings=paths.get("settings"))  # fmt: skip


def open_cluster(place: Place) -> KafkaLog:
    """Connect to the cluster of a place.

    Raises:
        ConfigError: If its file of settings cannot be read, or is not one JSON object of plain values.
    """
    if place.settings is None:
        return KafkaLog(place.servers)
    try:
        settings = json.loads(place.settings.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"Settings {place.settings}", got=str(error), expected="a JSON file") from error
    if not isinstance(settings, dict) or not all(isinstance(one, (str, int, float, bool)) for one in settings.values()):
        raise ConfigError(f"Settings {place.settings}", got="other values", expected="one JSON object of plain values",
                          do='For example {"security.protocol": "SSL"}.')  # fmt: skip
    return KafkaLog(place.servers, settings=settings)


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a server follows the published versions.

    Attributes:
        changes: The place that versions are read from, as text; None: the run's own folder.
        replica: The server's name in acknowledgements; None: made of the machine's name and the port.
        mode: `consistent`: an answer is of one version, rows and dense tensors together. `eventual`: requests never
            wait for rows; see `Replica`.

    Raises:
        ConfigError: If the place cannot be understood, or the mode is unknown.
    """

    changes: str | None = None
    replica: str | None = None
    mode: Mode = "consistent"

    def __post_init__(self) -> None:
        known_name("mode", self.mode, MODES)
        if self.changes is not None:
            find_place(self.changes)


@dataclass(frozen=True, slots=True)
class Changes:
    """Where a replica reads versions, where it acknowledges them, and how often it looks."""

    source: ChangeSource
    acknowledgements: Acknowledgements
    poll_s: float


def open_changes(config: RunConfig, folder: RunFolder, place: str | None = None) -> Changes:
    """Open the versions of a run: in its own folder, or at a place that the publisher copies them to.

    Args:
        config: The run.
        folder: Its folder.
        place: A path, or `kafka://...`; None: the run's own change log.
    """
    if place is None:
        reader = ChangeReader(open_log(config, folder, CHANGES), folder.snapshots)
        return Changes(reader, acknowledged_in(config, folder), LOCAL_POLL_S)
    found = find_place(place)
    if found.folder is not None:
        far = ChangeFolder(found.folder)
        return Changes(far, far.acknowledgements, FAR_POLL_S)
    topic = ChangeTopic(open_cluster(found), found.topic, snapshots=found.snapshots)
    return Changes(topic, topic.acknowledgements, FAR_POLL_S)


def acknowledger(changes: Changes, following: Following, port: int) -> Acknowledger:
    """Return what acknowledges for the server of this machine that listens on `port`."""
    return Acknowledger(changes.acknowledgements, following.replica or f"{socket.gethostname()}-{port}")


def acknowledged_in(config: RunConfig, folder: RunFolder) -> AcknowledgementFolder:
    """Return where the replicas of a run's own folder acknowledge."""
    return AcknowledgementFolder(folder.acknowledgements, sync=config.durability == "power")


def open_target(config: RunConfig, place: Place, run: str) -> ChangeTarget:
    """Open a place for the one who fills it.

    Raises:
        ConfigError: If it holds another run.
    """
    if place.folder is not None:
        return ChangeFolderWriter(place.folder, run, retention=config.retention)
    return ChangeTopicWriter(
        open_cluster(place), place.topic, run, snapshots=place.snapshots, retention=config.retention
    )


@contextmanager
def copied(config: RunConfig, folder: RunFolder, places: Sequence[str]) -> Iterator[list[Mirror]]:
    """Copy the run's published versions to other places while the block runs, and what is left at its end.

    Publishing does not wait for it: a place that cannot be reached is tried again every second, and gets what it
    lacks from the run's change log.

    Args:
        config: The run.
        folder: Its folder.
        places: Paths, or `kafka://...`.

    Raises:
        ConfigError: If a place holds another run.
    """
    if not places:
        yield []
        return
    log = open_log(config, folder, CHANGES)
    told, run = acknowledged_in(config, folder), run_id(log)
    mirrors = []
    for place in map(find_place, places):
        reader = ChangeReader(open_log(config, folder, CHANGES), folder.snapshots)
        target = open_target(config, place, run)
        mirrors.append(Mirror(reader, target, acknowledger=Acknowledger(told, place.name)))
    for mirror in mirrors:
        mirror.start()
    try:
        yield mirrors
    finally:
        for mirror in mirrors:
            mirror.stop(finish=True)
