import gzip
import hashlib

import pyarrow as pa
import pytest

from headrace.data.files import chunks, describe, find_file, format_of, sha256
from headrace.errors import DataError

TEXT = b"a,b\n1,2\n" * 50_000


def written(path, content: bytes = TEXT):
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, codec) if codec else raw as stream:
        stream.write(content)
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst"])
def test_plain_gzip_and_zstd_files_give_the_same_bytes(tmp_path, name):
    assert b"".join(chunks(written(tmp_path / name))) == TEXT


def test_several_gzip_members_in_one_file_are_read_to_the_end(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert b"".join(chunks(path)) == b"one\ntwo\n"


@pytest.mark.parametrize("name", ["x.csv.gz", "x.csv.zst"])
def test_a_cut_compressed_file_is_refused_by_name(tmp_path, name):
    path = written(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError) as caught:
        list(chunks(path))
    assert name in str(caught.value)
    assert "cut short" in str(caught.value)


def test_a_file_that_is_not_what_its_suffix_says_is_refused(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(TEXT)
    with pytest.raises(DataError):
        list(chunks(path))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError) as caught:
        list(chunks(tmp_path / "none.csv"))
    assert "none.csv" in str(caught.value)
    with pytest.raises(DataError):
        sha256(tmp_path / "none.csv")


def test_the_hash_is_that_of_the_bytes_on_disk(tmp_path):
    path = written(tmp_path / "x.csv.gz")
    facts = describe(path)
    assert facts.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts.name, facts.size_bytes) == ("x.csv.gz", path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.csv", "csv"), ("a.tsv.zst", "tsv"), ("a.inter.zst", "tsv"), ("a.jsonl.gz", "jsonl"), ("a.libfm", "libfm"),
     ("a.parquet", "parquet"), ("a.arrow", "arrow"), ("A.CSV.GZ", "csv")],
)  # fmt: skip
def test_the_format_is_told_by_the_suffix(tmp_path, name, kind):
    assert format_of(tmp_path / name) == kind


def test_an_unknown_suffix_names_the_nearest(tmp_path):
    with pytest.raises(DataError) as caught:
        format_of(tmp_path / "a.cvs")
    assert "'.csv'" in str(caught.value)


def test_files_are_found_under_the_better_name_first_and_compressed(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    written(tmp_path / "second.csv")
    assert find_file([None, other, tmp_path], ["first.csv", "second.csv"]) == tmp_path / "second.csv"
    written(other / "first.csv.zst")
    assert find_file([None, tmp_path, other], ["first.csv", "second.csv"]) == other / "first.csv.zst"
    assert find_file([None, tmp_path], ["third.csv"]) is None
