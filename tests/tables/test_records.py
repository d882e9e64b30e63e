"""Files of JSON lines after a kill in the middle of one."""

from mcir.report.records import read_records
from mcir.tables.records import end_last_line


def test_half_a_line_is_passed_over_and_the_next_one_stands_on_its_own(tmp_path):
    file = tmp_path / "runs.jsonl"
    assert list(read_records(file)) == []
    end_last_line(file)
    assert not file.exists()
    file.write_text('{"a": 1}\n{"a": 2, "b')
    end_last_line(file)
    end_last_line(file)
    with file.open("a") as lines:
        lines.write('{"a": 3}\n[4]\n')
    assert list(read_records(file)) == [{"a": 1}, {"a": 3}]
