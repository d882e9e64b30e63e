"""Records with checksums: damage is found, lines of earlier versions are accepted, appending repairs and undoes."""

import errno
import io
import json
import math

import pytest

from mcir.checked_json import append_record, as_json, checked_line, checked_text, parse_record, read_records, read_text

RECORD = {"kind": "val", "psnr": 31.4159, "images": {"a": math.inf}, "name": "ä"}
STORED = {**RECORD, "images": {"a": "inf"}}


def test_a_line_is_plain_json_and_ends_with_its_checksum():
    line = checked_line(RECORD)
    assert line.endswith(b"}\n") and list(json.loads(line)) == [*RECORD, "crc32"]
    assert parse_record(line.removesuffix(b"\n")) == STORED
    time_ns = {"time": 1_764_540_000_123_456_789}
    assert parse_record(checked_line(time_ns).strip()) == time_ns


def test_every_flipped_bit_of_a_line_is_found():
    lines = [checked_line({**RECORD, "at": at}) for at in range(3)]
    text = b"".join(lines)
    for bit in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        records = [parse_record(line) for line in bytes(flipped).split(b"\n")[:-1]]
        assert all(record is None or record == {**STORED, "at": record["at"]} for record in records)
        assert sum(record is not None for record in records) in (1, 2)  # a flipped newline joins two lines


def test_lines_of_earlier_versions_are_read_without_a_check(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text(as_json(RECORD) + "\n[1]\n\n{}\n")
    append_record(file, {"a": 1})
    records, problem = read_records(file)
    assert records == [STORED, {}, {"a": 1}]
    assert problem == "1 of 5 lines cannot be used, because they are damaged or incomplete: 2"
    assert read_records(tmp_path / "missing") == ([], "")
    assert read_records(tmp_path) == ([], "is a folder")


def test_many_damaged_lines_are_not_all_listed(tmp_path):
    (tmp_path / "x.jsonl").write_text("{\n" * 9)
    assert read_records(tmp_path / "x.jsonl").problem.endswith(": 1, 2, 3, 4, 5, 6 and 3 more")


def test_a_half_written_line_becomes_a_line_of_its_own(tmp_path):
    file = tmp_path / "deep" / "x.jsonl"
    append_record(file, {"a": 1})
    with file.open("ab") as lines:
        lines.write(checked_line({"a": 2})[:9])
    append_record(file, {"a": 3})
    assert read_records(file).records == [{"a": 1}, {"a": 3}]


def test_a_full_disk_does_not_change_the_file(tmp_path, monkeypatch):
    file = tmp_path / "x.jsonl"
    append_record(file, {"a": 1})
    before, write = file.read_bytes(), io.FileIO.write

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() > len(before):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data[:5])

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(type(file), "open", lambda path, mode, buffering=0: Full(path, mode.replace("b", "")))
        append_record(file, {"a": 2})
    assert file.read_bytes() == before


def test_every_flipped_bit_of_a_text_is_found(tmp_path):
    text = "name: run\ntrain:\n  total_iter: 4\n"
    data = checked_text(text)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.yml").write_bytes(flipped)
        found, problem = read_text(tmp_path / "x.yml")
        assert problem == "differs from its checksum, because it was damaged or edited" or found == text


@pytest.mark.parametrize("text", ["", "a: 1\n", "# a\na: 1", "a: '# crc'\n"])
def test_texts_with_and_without_a_checksum(tmp_path, text):
    (tmp_path / "x.yml").write_text(text)
    assert read_text(tmp_path / "x.yml") == (text, "")
    (tmp_path / "x.yml").write_bytes(checked_text(text))
    assert read_text(tmp_path / "x.yml") == (text.rstrip("\n") + "\n", "")
    assert read_text(tmp_path) == ("", "is a folder")
