"""Downloads into a cache: checked, resumed after a cut, renamed into place only when whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from headrace.data.files import CHUNK_BYTES, sha256
from headrace.errors import DataError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "HEADRACE_CACHE"
TIMEOUT_S = 30.0
ATTEMPTS = 3
"""How often a cut connection is taken up again within one call."""

UNPACKED_BYTES = 8 << 30
"""No archive may unpack to more."""

OFFICIAL = "equal to the official checksum"
PINNED = "equal to the checksum recorded in Headrace; the official one could not be confirmed"
FIRST = "no official checksum was found; that of the first download is recorded and later ones are compared with it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A file to be downloaded.

    Attributes:
        url: Official address.
        md5: Checksum that its makers publish, as recorded here; empty when they publish none.
        md5_url: Where they publish it; empty for `url` + `.md5` when there is a checksum.
        name: File name in the cache; empty for that of the address.
    """

    url: str
    md5: str = ""
    md5_url: str = ""
    name: str = ""

    @property
    def file_name(self) -> str:
        """Name in the cache."""
        return self.name or PurePosixPath(self.url).name


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file in the cache, its SHA-256, and what its content was checked against."""

    path: Path
    sha256: str
    checked: str


def cache_folder() -> Path:
    """Return the cache: `HEADRACE_CACHE`, else `~/.cache/headrace`."""
    named = os.environ.get(CACHE_VARIABLE, "")
    return Path(named) if named else Path.home() / ".cache" / "headrace"


def download(archive: Archive, folder: Path | None = None) -> Downloaded:
    """Return the archive from the cache, downloading it if it is not there.

    What is half downloaded lies in a `.part` file and is taken up where it ended, if the server still has the same
    file. The archive appears under its name only when its length and checksum are right.

    Args:
        archive: What to download.
        folder: Cache folder; None for `cache_folder()`.

    Raises:
        DataError: If the server cannot be reached or does not have it, the connection was cut (call again to go on),
            the checksum is wrong (nothing is kept), or the disk is full.
    """
    folder = folder or cache_folder()
    path = folder / archive.file_name
    record = path.with_name(path.name + ".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and record.exists():
            kept = json.loads(record.read_text())
            return Downloaded(_unchanged(path, str(kept["sha256"]), archive), str(kept["sha256"]), str(kept["checked"]))
        part = _fetched(archive, path)
        checked = _checked(part, archive, _recorded(record))
        found = Downloaded(path, sha256(part), checked)
        os.replace(part, path)
        _write(record, {"url": archive.url, "sha256": found.sha256, "checked": checked})
    except OSError as error:
        raise DataError(f"Download of {archive.url}", got=error.strerror or str(error),
                        expected=f"room and rights to write in {folder}",
                        do=f"Free some space, or set {CACHE_VARIABLE} to another folder.") from error  # fmt: skip
    logger.info("downloaded %s (%s)", archive.url, checked)
    return found


def checked_against(archive: Archive, folder: Path | None = None) -> str:
    """Return what a cached archive was checked against when it was downloaded; empty if it was not downloaded."""
    record = (folder or cache_folder()) / f"{archive.file_name}.json"
    return str(json.loads(record.read_text())["checked"]) if record.exists() else ""


def _unchanged(path: Path, expected: str, archive: Archive) -> Path:
    if sha256(path) != expected:
        raise DataError(f"File {path}", got="another content than once downloaded", expected=f"SHA-256 {expected}",
                        do=f"Delete it; it will be downloaded again from {archive.url}.")  # fmt: skip
    return path


def _recorded(record: Path) -> str:
    return str(json.loads(record.read_text())["sha256"]) if record.exists() else ""


def _write(path: Path, content: dict[str, object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, sort_keys=True))
    os.replace(temporary, path)


@dataclass(frozen=True, slots=True)
class _Progress:
    """What a `.part` file is a part of: the server's mark of the file, and its length (-1: not told)."""

    mark: str
    length: int


def _fetched(archive: Archive, path: Path) -> Path:
    """Download into the `.part` file and return it when it is whole."""
    part, notes = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    got, length = 0, -1
    for _ in range(ATTEMPTS):
        length = _continue(archive.url, part, notes)
        got = part.stat().st_size
        if length in (-1, got):
            notes.unlink(missing_ok=True)
            return part
    raise DataError(f"Download of {archive.url}", got=f"a connection that was cut after {got} of {length} bytes",
                    expected="the whole file", do="Run it again; it goes on where it ended.")  # fmt: skip


def _continue(url: str, part: Path, notes: Path) -> int:
    """Fetch what is missing of a file, as far as the connection lasts; return the whole length, -1 if not told."""
    known = _Progress(**json.loads(notes.read_text())) if notes.exists() and part.exists() else _Progress("", -1)
    start = part.stat().st_size if known.mark else 0
    headers = {"Range": f"bytes={start}-", "If-Range": known.mark} if start else {}
    if start and start == known.length:
        return known.length
    with _open(url, headers) as answer:
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server sends all of it: it has changed, or ranges are not served
        told = answer.headers.get("Content-Length")
        length = start + int(told) if told is not None else -1
        _write(notes, asdict(_Progress("" if mark.startswith("W/") else mark, length)))
        with part.open("ab" if start else "wb") as file:
            try:
                while chunk := answer.read(CHUNK_BYTES):
                    file.write(chunk)
            except (http.client.IncompleteRead, ConnectionError, TimeoutError) as error:
                file.write(error.partial if isinstance(error, http.client.IncompleteRead) else b"")
                logger.warning("the connection to %s was cut: %s", url, error)
    return length


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    if not url.startswith(("https://", "http://")):
        raise DataError(f"Download of {url}", got="an address of another kind", expected="http or https")
    request = urllib.request.Request(url, headers={"User-Agent": "headrace", **headers})
    do = "Check the connection, or download it elsewhere and name its folder in HEADRACE_DATA."
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"Download of {url}", got=f"status {error.code} {error.reason}", expected="the file", do=do
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"Download of {url}", got=str(getattr(error, "reason", error)), expected="an answer", do=do
        ) from error
    return answer


def _checked(part: Path, archive: Archive, recorded: str) -> str:
    """Return what the content was checked against; a wrong one is deleted."""
    official = _official(archive)
    if official and archive.md5 and official != archive.md5:
        raise DataError(f"Download of {archive.url}", got=f"the published MD5 {official}", expected=f"{archive.md5}",
                        do="Its makers have changed it, or somebody else has; get it by hand and look.")  # fmt: skip
    expected = official or archive.md5
    if expected:
        digest = hashlib.md5(usedforsecurity=False)
        with part.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        _demand(part, archive, "MD5", digest.hexdigest(), expected)
        return OFFICIAL if official else PINNED
    if recorded:
        _demand(part, archive, "SHA-256", sha256(part), recorded)
    return FIRST


def _demand(part: Path, archive: Archive, kind: str, got: str, expected: str) -> None:
    if got != expected:
        part.unlink()
        raise DataError(f"Download of {archive.url}", got=f"{kind} {got}", expected=f"{kind} {expected}",
                        do="Nothing was kept. Try again; if it stays so, the file there has changed.")  # fmt: skip


def _official(archive: Archive) -> str:
    """Return the checksum that the makers publish, or nothing when it cannot be had (a warning says so)."""
    url = archive.md5_url or (archive.url + ".md5" if archive.md5 else "")
    if not url:
        return ""
    try:
        with _open(url, {}) as answer:
            found = re.search(r"\b[0-9a-fA-F]{32}\b", answer.read(4096).decode(errors="replace"))
    except (DataError, OSError, http.client.HTTPException) as error:
        logger.warning("the official checksum of %s could not be confirmed: %s", archive.url, error)
        return ""
    return found.group().lower() if found else ""


def extract(archive: Path, members: Sequence[str], folder: Path) -> list[Path]:
    """Unpack members of a zip archive into a folder, each under its plain file name, and return their paths.

    Only the members asked for are unpacked; a name with `..` or an absolute one, a link, and a member larger than
    `UNPACKED_BYTES` are refused. Each appears only when it is whole.

    Raises:
        DataError: If the archive is damaged, lacks a member, or holds something that is not a plain file.
    """
    paths = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                paths.append(_extract_one(opened, member, folder, archive))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"Archive {archive}", got=str(error), expected="a whole zip archive",
                        do="Delete it; it will be downloaded again.") from error  # fmt: skip
    except OSError as error:
        raise DataError(f"Archive {archive}", got=error.strerror or str(error), expected=f"room in {folder}",
                        do="Free some space.") from error  # fmt: skip
    return paths


def _extract_one(opened: zipfile.ZipFile, member: str, folder: Path, archive: Path) -> Path:
    plain = PurePosixPath(member)
    if plain.is_absolute() or ".." in plain.parts or "\\" in member or not plain.name:
        raise DataError(f"Archive {archive}", got=f"member {member!r}", expected="a path inside the archive")
    try:
        info = opened.getinfo(member)
    except KeyError as error:
        raise DataError(f"Archive {archive}", got=f"no member {member!r}", expected=f"it among {opened.namelist()[:9]}",
                        do="Is it another edition of the data set?") from error  # fmt: skip
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16) or info.file_size > UNPACKED_BYTES:
        raise DataError(f"Archive {archive}", got=f"member {member!r} that is a folder, a link or too large",
                        expected=f"a plain file of at most {UNPACKED_BYTES >> 30} GiB")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / plain.name
    temporary = target.with_name(target.name + ".tmp")
    with opened.open(info) as source, temporary.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)  # reads no more than file_size, and checks the CRC
    os.replace(temporary, target)
    return target
