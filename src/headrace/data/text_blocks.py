"""Text files cut into blocks of whole rows, decompressed and decoded as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.data.files import chunks
from headrace.errors import DataError

LONGEST_ROW_BYTES = 64 << 20
"""A file without a line break (outside quotes) for so long is not read as text."""

QUOTE = b'"'
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of a text file in UTF-8, and the number of the first line (1 = first of the file).

    A record is a row that is not blank; where values may be quoted, a line break inside quotes does not end it.
    """

    data: bytes
    first_line: int = 1
    quoted: bool = False

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Yield line number and text of every record. Cost: one Python object per row; for small or bad blocks."""
        lines: list[bytes] = []
        start, inside = self.first_line, False
        for number, line in enumerate(self.data.split(b"\n"), self.first_line):
            if not inside:
                lines, start = [], number
            lines.append(line.removesuffix(b"\r"))
            inside ^= self.quoted and line.count(QUOTE) % 2 == 1
            if not inside and (len(lines) > 1 or lines[0].strip()):
                yield start, b"\n".join(lines)
        if inside:
            yield start, b"\n".join(lines)

    def line_of(self, record: int) -> int:
        """Return the line on which a record of this block starts. Cost: O(bytes); for messages."""
        for number, (line, _) in enumerate(self.records()):
            if number == record:
                return line
        return self.first_line

    def count(self) -> int | None:
        """Return how many records there are, or None when only parsing can tell (quotes, blank lines)."""
        data = self.data
        blank = b"\n\n" in data or b"\n\r\n" in data or data[:1] in (b"\n", b"\r", b"")
        if blank or (self.quoted and QUOTE in data):
            return None
        return data.count(b"\n") + (not data.endswith(b"\n"))

    def only(self, records: list[bytes]) -> Block:
        """Return a block of some of this one's records."""
        return Block(b"\n".join(records), self.first_line, self.quoted)


def blocks(path: Path, *, quoted: bool, encoding: str = "utf-8") -> Iterator[Block]:
    """Yield a text file's rows in blocks of about a mebibyte.

    Raises:
        DataError: If the file cannot be read or decoded, or a row never ends.
    """
    rest, line, open_quotes = b"", 1, 0
    for chunk in _decoded(path, encoding):
        open_quotes = (open_quotes + chunk.count(QUOTE)) % 2 if quoted else 0
        cut = _last_break(chunk, open_quotes, quoted)
        data, cut = rest + chunk, cut + len(rest) if cut else 0
        if not cut and len(data) > LONGEST_ROW_BYTES:
            raise DataError(f"File {path}, line {line}", got=f"a row of more than {LONGEST_ROW_BYTES >> 20} MiB",
                            expected="line breaks",
                            do="Is it a text file? If quotes are plain characters in it, set quote=False.")  # fmt: skip
        if cut:
            yield Block(data[:cut], line, quoted)
            line += data.count(b"\n", 0, cut)
        rest = data[cut:]
    if rest.strip():
        yield Block(rest, line, quoted)


def _decoded(path: Path, encoding: str) -> Iterator[bytes]:
    first, utf8 = True, encoding.lower() in ("utf-8", "utf8")
    for chunk in chunks(path):
        piece = chunk.removeprefix(BYTE_ORDER_MARK) if first else chunk
        first = False
        yield piece if utf8 else _recoded(piece, encoding, path)


def _recoded(piece: bytes, encoding: str, path: Path) -> bytes:
    try:
        return piece.decode(encoding).encode()
    except (UnicodeDecodeError, LookupError) as error:
        raise DataError(f"File {path}", got=str(error), expected=f"text in {encoding}",
                        do="Name a one-byte encoding such as 'latin-1' in the layout.") from error  # fmt: skip


def _last_break(chunk: bytes, open_quotes: int, quoted: bool) -> int:
    """Return where the last whole row ends in a chunk, 0 when none does; `open_quotes`: a quote is open at its end."""
    end = len(chunk)
    while True:
        if open_quotes:  # go back to where the quote was opened
            end = chunk.rfind(QUOTE, 0, end)
            if end < 0:
                return 0
            open_quotes = 0
        found = chunk.rfind(b"\n", 0, end)
        if found < 0:
            return 0
        open_quotes = chunk.count(QUOTE, found, end) % 2 if quoted else 0
        if not open_quotes:
            return found + 1
        end = found
