"""Arms of a server on the command line: run folders whose versions answer a share of the traffic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.config import require
from headrace.errors import ConfigError, StaleError
from headrace.online.build import open_serving, with_preparation
from headrace.online.config import OnlineConfig
from headrace.online.layout import CHANGES, RunFolder
from headrace.online.logs import open_log
from headrace.publish import Acknowledger, ChangeReader
from headrace.publish.acknowledgements import AcknowledgementFolder
from headrace.publish.versions import content, reachable
from headrace.serve.arms import Experiment, ServedModel
from headrace.serve.experiment import FILE, KEY, MAIN, ExperimentConfig
from headrace.types import Change, Version

_ARM = re.compile(r"(?P<name>[A-Za-z0-9_.-]{1,64})=(?P<folder>.+?)(@(?P<version>\d{1,18}))?:(?P<share>[0-9.eE+-]+)")


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """A further arm of a server.

    Attributes:
        name: In answers and in the log.
        folder: The run whose versions it serves.
        share: Its share of traffic when the experiment begins; the server's own model has what the arms leave.
        version: The version that it stays at; None follows the newest one.
        config: Its run; None: as the server's own.

    Raises:
        ConfigError: If a value cannot work.
    """

    name: str
    folder: Path
    share: float
    version: int | None = None
    config: OnlineConfig | None = None

    def __post_init__(self) -> None:
        require(self.name != MAIN, "--arm", got=MAIN, expected="another name", do="The server's own model is `main`.")
        require(0 <= self.share <= 1, f"Arm '{self.name}', share", got=self.share, expected="from 0 to 1")


def parse_arm(text: str, config: OnlineConfig | None = None) -> ArmConfig:
    """Return the arm that `NAME=FOLDER:SHARE` or `NAME=FOLDER@VERSION:SHARE` names.

    Raises:
        ConfigError: If the text names none.

    Example:
        >>> arm = parse_arm("canary=runs/b:0.05")
        >>> arm.name, str(arm.folder), arm.share, arm.version
        ('canary', 'runs/b', 0.05, None)
        >>> parse_arm("old=runs/a@41:0.5").version
        41
    """
    found = _ARM.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        share = float(found["share"])
    except ValueError as error:
        raise ConfigError("--arm", got=repr(text), expected="NAME=FOLDER:SHARE, or NAME=FOLDER@VERSION:SHARE",
                          do="For example --arm canary=runs/new:0.05.") from error  # fmt: skip
    version = None if found["version"] is None else int(found["version"])
    return ArmConfig(name=found["name"], folder=Path(found["folder"]), share=share, version=version, config=config)


def open_experiment(
    config: OnlineConfig, folder: RunFolder, arms: Sequence[ArmConfig], *, split_by: str = KEY, salt: str = "",
    replica: str = "",
) -> Experiment:  # fmt: skip
    """Return further arms of a server, each with a replica of its own.

    Args:
        config: The server's own run.
        folder: Its folder; the shares are kept there.
        arms: The arms.
        split_by: `key`, or the column whose values stay with one arm.
        salt: Of the split; empty: drawn once.
        replica: The server's name among the replicas of the runs; empty: it acknowledges no version.

    Raises:
        ConfigError: If two arms have one name, the shares are more than all, or a run has other requests.
        StaleError: If a version that an arm is to stay at is no longer kept.
    """
    names = [arm.name for arm in arms]
    require(len(set(names)) == len(names), "--arm", got=names, expected="every name once")
    rest = 1 - sum(arm.share for arm in arms)
    require(rest > -1e-9, "--arm", got=f"shares of {1 - rest:g} together", expected="at most 1")
    shares: Mapping[str, float] = {MAIN: max(rest, 0.0), **{arm.name: arm.share for arm in arms}}
    return Experiment(
        arms={arm.name: _opened(arm.config or config, arm, replica) for arm in arms},
        config=ExperimentConfig(shares=shares, split_by=split_by, salt=salt, path=folder.root / FILE,
                                window_s=config.join.window_s, kinds=config.join.positive),
        folders=tuple(arm.folder for arm in arms),
    )  # fmt: skip


def _opened(config: OnlineConfig, arm: ArmConfig, replica: str) -> ServedModel:
    run = RunFolder(arm.folder)
    require(run.log(CHANGES).exists(), f"Arm '{arm.name}', folder", got=str(arm.folder),
            expected="a run folder with published versions")  # fmt: skip
    reader = ChangeReader(open_log(config, run, CHANGES), run.snapshots)
    predictor = open_serving(with_preparation(config, run)).predictor
    if arm.version is not None:
        return ServedModel(predictor, OneVersion(reader, arm.version))
    told = Acknowledger(AcknowledgementFolder(run.acknowledgements), f"{replica}/{arm.name}") if replica else None
    return ServedModel(predictor, reader, told)


class OneVersion:
    """A source of changes that has one version of a run, and never another: for an arm that stays where it is.

    It is read when it is asked for, so that nothing of it is kept here which was erased there.

    Args:
        reader: The run's published versions.
        number: The version.

    Raises:
        StaleError: If its content is no longer kept.
    """

    def __init__(self, reader: ChangeReader, number: int) -> None:
        self.reader, self.number = reader, number
        kept = reachable(reader.changes, reader.snapshots)
        if number not in kept:
            raise StaleError(f"Version {number}", got="a version whose content is no longer kept",
                             expected=f"one from {kept.start} to {kept.stop - 1}" if kept else "a published version",
                             do="Let the arm stay at another version.")  # fmt: skip

    def last(self) -> Version:
        """Return the version."""
        return Version(self.number)

    def read_since(self, number: int) -> Iterator[Change]:
        """Yield the version, unless it is held already."""
        if number < self.number:
            yield content(self.reader.changes, self.reader.snapshots, self.number)

    def snapshot(self) -> Change | None:
        """Return nothing: `read_since` has all there is."""
        return None

    def published_at(self, number: int | None = None) -> int:
        """Return 0: nothing is published here."""
        return 0
