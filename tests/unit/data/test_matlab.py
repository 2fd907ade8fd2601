from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import pytest

from headrace.data.matlab import Sparse, read_matlab
from headrace.errors import DataError


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    padding = b"" if kind == 15 else b"\0" * (-len(content) % 8)
    return struct.pack(f"{order}II", kind, len(content)) + content + padding


def small(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", len(content) << 16 | kind) + content.ljust(4, b"\0")


def matrix(name: str, cls: int, shape: tuple[int, ...], *parts: bytes, flags: int = 0, order: str = "<") -> bytes:
    head = element(6, struct.pack(f"{order}II", cls | flags << 8, 0), order)
    dims = element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    title = small(1, name.encode()) if 0 < len(name) <= 4 and order == "<" else element(1, name.encode(), order)
    return element(14, head + dims + title + b"".join(parts), order)


def header(mark: bytes = b"IM") -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1" + mark


def doubles(*values: float, order: str = "<") -> bytes:
    return element(9, np.array(values, dtype=f"{order}f8").tobytes(), order)


def integers(*values: int) -> bytes:
    return element(5, np.array(values, dtype="<i4").tobytes())


NUMBERS = matrix("x", 6, (2, 3), doubles(1, 2, 3, 4, 5, 6))
SPARSE = matrix("s", 5, (3, 2), integers(0, 2, 1), integers(0, 2, 3), doubles(5, 6, 7))


@pytest.fixture
def read(tmp_path):
    def write_and_read(content: bytes, name: str = "a.mat"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return read_matlab(path)

    return write_and_read


def test_numbers_stand_column_by_column(read) -> None:
    found = read(header() + NUMBERS)
    assert found["x"].tolist() == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]


def test_stored_small_and_declared_large(read) -> None:
    found = read(header() + matrix("flags", 6, (1, 3), element(2, bytes([0, 1, 1]))))
    assert (found["flags"].dtype, found["flags"].tolist()) == (np.float64, [[0.0, 1.0, 1.0]])


def test_compressed_variables_and_compressed_files(read) -> None:
    packed = header() + element(15, zlib.compress(NUMBERS)) + element(15, zlib.compress(SPARSE))
    for name in ("a.mat", "a.mat.gz"):
        assert set(read(packed, name)) == {"x", "s"}


def test_sparse_matrices_come_row_by_row(read) -> None:
    found = read(header() + SPARSE)["s"]
    assert isinstance(found, Sparse)
    assert found.dense().tolist() == [[5.0, 0.0], [0.0, 7.0], [6.0, 0.0]]
    assert (found.starts.tolist(), found.columns.tolist()) == ([0, 1, 2, 3], [0, 1, 0])


def test_cells_and_text(read) -> None:
    text = matrix("", 4, (1, 3), element(17, "añb".encode("utf-16-le")))
    found = read(header() + matrix("c", 1, (1, 2), text, matrix("", 6, (1, 1), doubles(4))))
    assert found["c"][0] == "añb"
    assert found["c"][1].tolist() == [[4.0]]


def test_the_other_byte_order(read) -> None:
    content = matrix("numbers", 6, (1, 2), doubles(1, 2, order=">"), order=">")
    assert read(header(b"MI") + content)["numbers"].tolist() == [[1.0, 2.0]]


def test_empty_matrices(read) -> None:
    assert read(header() + matrix("e", 6, (0, 3), doubles()))["e"].shape == (0, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"short", "no MATLAB header"),
        (b"MATLAB 7.3 MAT-file".ljust(600), "7.3"),
        (header() + NUMBERS[:-20], "are left"),
        (header() + NUMBERS + b"123", "cut short"),
        (header() + element(15, b"nothing packed"), "does not unpack"),
        (header() + element(15, zlib.compress(NUMBERS)[:-9]), "cut short"),
        (header() + element(9, b"\0" * 8), "between the variables"),
        (header() + matrix("x", 6, (2, 2), doubles(1, 2, 3)), "3 values"),
        (header() + matrix("x", 2, (1, 1), doubles(1)), "struct"),
        (header() + matrix("x", 6, (1, 1), doubles(1), flags=8), "complex"),
        (header() + matrix("x", 6, (-1, 1), doubles(1)), "shape"),
        (header() + matrix("x", 1, (1, 2), NUMBERS), "cell array"),
        (header() + matrix("x", 5, (3, 2), integers(0, 9, 1), integers(0, 2, 3), doubles(5, 6, 7)), "outside"),
        (header() + matrix("x", 5, (3, 2), integers(0, 2), integers(0, 3, 2), doubles(5, 6)), "outside"),
        (header() + element(14, element(6, b"\0" * 8)), "parts"),
    ],
)
def test_what_is_damaged_is_named(read, content, says) -> None:
    with pytest.raises(DataError, match=says):
        read(content)


def test_cells_may_not_lie_too_deep(read) -> None:
    inner = matrix("", 6, (1, 1), doubles(1))
    for _ in range(12):
        inner = matrix("", 1, (1, 1), inner)
    with pytest.raises(DataError, match="deep"):
        read(header() + inner)


def test_scipys_reader_agrees(data_file) -> None:
    io = pytest.importorskip("scipy.io", reason="scipy comes with scikit-learn, which is not installed")
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = data_file("amtl_emails.mat.zst")
    ours = read_matlab(path)
    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
        import io as memory

        theirs = io.loadmat(memory.BytesIO(stream.read()))
    for place in (0, 14):
        expected = theirs["X"][0, place].tocsr()
        expected.sort_indices()
        found = ours["X"][place]
        assert found.shape == expected.shape
        assert (found.starts == expected.indptr).all()
        assert (found.columns == expected.indices).all()
        assert (found.values == expected.data).all()
        assert (ours["Y"][place] == theirs["Y"][0, place]).all()
