from csv import writer as csv_writer

import numpy as np
import pyarrow as pa
import pytest

from headrace.data.text_blocks import Block, blocks
from headrace.data.text_rows import header_names, parse_delimited, parse_json, parse_libfm
from headrace.errors import DataError


def csv(text: bytes | str, names=("a", "b"), delimiter=",", quoted=True):
    data = text.encode() if isinstance(text, str) else text
    return parse_delimited(Block(data, 1, quoted), names, delimiter)


def test_values_are_strings_and_empty_ones_null():
    parsed = csv('1,x\n,"y"\n"",z\n')
    assert parsed.batch.to_pylist() == [{"a": "1", "b": "x"}, {"a": None, "b": "y"}, {"a": "", "b": "z"}]
    assert parsed.flaws == []


def test_a_row_with_too_few_or_too_many_values_is_a_flaw_and_the_others_stay():
    parsed = csv("1,2\n3\n\n4,5,6\n7,8\n")
    assert parsed.batch.column("a").to_pylist() == ["1", "7"]
    assert parsed.records.tolist() == [0, 3]
    assert [(flaw.row, flaw.got, flaw.expected) for flaw in parsed.flaws] == [
        (1, "1 values", "2 values"), (2, "3 values", "2 values")]  # fmt: skip
    assert parsed.count == 4


def test_lines_are_counted_over_blank_lines_and_quoted_line_breaks():
    block = Block(b'1,2\n\n"x\ny",3\n4\n', 10, True)
    assert [block.line_of(record) for record in range(3)] == [10, 12, 14]


def test_a_line_break_inside_quotes_stays_in_the_value():
    assert csv('"x\ny",1\n').batch.column("a").to_pylist() == ["x\ny"]


def test_quotes_can_be_plain_characters():
    assert csv('5" tv\tx\n', delimiter="\t", quoted=False).batch.column("a").to_pylist() == ['5" tv']


def test_a_delimiter_may_have_several_characters():
    assert csv("1::a b\n2::c\n", delimiter="::", quoted=False).batch.column("b").to_pylist() == ["a b", "c"]


def test_bytes_that_are_not_utf8_are_a_flaw_of_their_row():
    parsed = csv(b"1,2\n3,\xff\n4\n5,6\n")
    assert parsed.batch.column("a").to_pylist() == ["1", "5"]
    assert parsed.records.tolist() == [0, 3]
    assert [flaw.row for flaw in parsed.flaws] == [1, 2]
    assert "UTF-8" in parsed.flaws[0].got


def test_windows_line_ends_do_not_reach_the_values():
    assert csv("1,2\r\n3,4\r\n").batch.column("b").to_pylist() == ["2", "4"]


def test_the_header_is_taken_from_the_first_row_that_is_not_blank():
    names, rest = header_names(Block(b'\n"a",b\r\n1,2\n', 1, True), ",", "f")
    assert names == ("a", "b")
    assert rest == Block(b"1,2\n", 3, True)


def test_a_file_of_a_header_has_no_rows():
    assert header_names(Block(b"a,b", 1, True), ",", "f") == (("a", "b"), None)


@pytest.mark.parametrize("header", [b"a,a\n1,2\n", b"a,,b\n1,2,3\n"])
def test_a_header_with_unusable_names_is_refused(header):
    with pytest.raises(DataError) as caught:
        header_names(Block(header, 1, True), ",", "File f.csv")
    assert "File f.csv, line 1" in str(caught.value)


def test_json_objects_become_rows_and_lists_stay_lists():
    parsed = parse_json(Block(b'{"a": 1, "l": ["x", "y"]}\n\n{"a": null, "l": []}\n'), None)
    assert parsed.batch.to_pylist() == [{"a": 1, "l": ["x", "y"]}, {"a": None, "l": []}]


def test_json_text_that_looks_like_a_time_stays_text():
    parsed = parse_json(Block(b'{"t": "2014-10-21 00:00:00", "l": ["2014-10-21 00:00:00"]}'), None)
    assert parsed.batch.to_pylist() == [{"t": "2014-10-21 00:00:00", "l": ["2014-10-21 00:00:00"]}]


def test_lines_that_are_no_json_objects_are_flaws():
    parsed = parse_json(Block(b'{"a": 1}\n{"a": \n[1]\n{"a": 4}\n'), None)
    assert parsed.batch.column("a").to_pylist() == [1, 4]
    assert [flaw.row for flaw in parsed.flaws] == [1, 2]
    assert parsed.flaws[1].got == "a JSON list"


def test_json_values_of_another_type_are_flaws_once_types_are_settled():
    parsed = parse_json(Block(b'{"a": 1}\n{"a": "x"}\n{"a": 2, "b": 1}\n'), pa.schema([("a", pa.int64())]))
    assert parsed.batch.to_pylist() == [{"a": 1}, {"a": 2}]
    assert [flaw.row for flaw in parsed.flaws] == [1]
    assert "a int64" in parsed.flaws[0].expected


def test_json_types_that_change_within_the_first_block_ask_for_a_layout():
    with pytest.raises(DataError) as caught:
        parse_json(Block(b'{"a": 1}\n{"a": "x"}\n'), None)
    assert "layout" in str(caught.value)


def test_a_block_of_bad_json_has_no_rows():
    parsed = parse_json(Block(b"nonsense\n"), None)
    assert len(parsed.records) == 0
    assert len(parsed.flaws) == 1


def test_libfm_rows_become_a_label_ids_and_values():
    parsed = parse_libfm(Block(b"1 3:0.5 7:1e2\n-1 2\n0\n0.5 1:-1 # note\n"))
    assert parsed.batch.to_pylist() == [
        {"label": 1.0, "ids": [3, 7], "values": [0.5, 100.0]}, {"label": -1.0, "ids": [2], "values": [1.0]},
        {"label": 0.0, "ids": [], "values": []}, {"label": 0.5, "ids": [1], "values": [-1.0]}]  # fmt: skip


def test_libfm_rows_that_are_wrong_are_flaws():
    parsed = parse_libfm(Block(b"1 3:0.5\nx 1:1\n0 a:1\n1 2:y\n1 4:1\n"))
    assert parsed.batch.column("ids").to_pylist() == [[3], [4]]
    assert parsed.records.tolist() == [0, 4]
    assert [(flaw.row, flaw.got) for flaw in parsed.flaws] == [(1, "'x'"), (2, "'a:1'"), (3, "'2:y'")]


def test_blocks_end_at_line_breaks_and_count_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"".join(b"%d,%s\n" % (n, b"x" * 90) for n in range(30_000)))
    found = list(blocks(path, quoted=False))
    assert len(found) > 1
    assert b"".join(block.data for block in found) == path.read_bytes()
    assert all(block.data.endswith(b"\n") for block in found)
    assert found[1].first_line == found[0].data.count(b"\n") + 1
    assert sum(block.count() for block in found) == 30_000


def test_a_block_never_ends_inside_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'1,"' + b"long\n" * 300_000 + b'"\n2,x\n')
    found = list(blocks(path, quoted=True))
    assert found[0].data.endswith(b'"\n') or found[0].data.endswith(b"2,x\n")


def test_a_row_that_never_ends_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.data.text_blocks.LONGEST_ROW_BYTES", 1 << 20)
    path = tmp_path / "x.csv"
    path.write_bytes(b"x" * (3 << 20))
    with pytest.raises(DataError) as caught:
        list(blocks(path, quoted=False))
    assert "line breaks" in str(caught.value)


def test_a_byte_order_mark_is_left_out_and_other_encodings_are_recoded(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfa\n")
    assert next(blocks(path, quoted=False)).data == b"a\n"
    path.write_bytes("é\n".encode("latin-1"))
    assert next(blocks(path, quoted=False, encoding="latin-1")).data == "é\n".encode()
    with pytest.raises(DataError):
        list(blocks(path, quoted=False, encoding="ascii"))


def test_records_can_be_counted_without_parsing_only_when_that_is_safe():
    assert Block(b"1\n2\n").count() == 2
    assert Block(b"1\n2").count() == 2
    assert Block(b"1\n\n2\n").count() is None
    assert Block(b'"1"\n', 1, True).count() is None
    assert Block(b'"1"\n', 1, False).count() == 1


def test_blocks_of_quoted_text_put_together_are_the_file_and_parse_to_its_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    values = ["".join(rng.choice(list('ab,"\n'), size=rng.integers(0, 12))) for _ in range(3_000)]
    path = tmp_path / "x.csv"
    with path.open("w", newline="") as file:
        csv_writer(file).writerows([value, "z"] for value in values)
    for size in (7, 64, 1000):
        monkeypatch.setattr("headrace.data.files.CHUNK_BYTES", size)
        found = list(blocks(path, quoted=True))
        assert b"".join(block.data for block in found) == path.read_bytes()
        parsed = [parse_delimited(block, ("a", "b"), ",") for block in found]
        assert [value for part in parsed for value in part.batch.column("a").to_pylist()] == [v or None for v in values]
