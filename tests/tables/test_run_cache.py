"""Trainings that are made once."""

from dataclasses import dataclass

from mcir.tables.run_cache import read_runs, run_cached


@dataclass(frozen=True)
class Item:
    name: str

    def fingerprint(self):
        return f"of {self.name}"


def test_what_is_in_the_file_is_not_made_again(tmp_path):
    file, made, said = tmp_path / "out/runs.jsonl", [], []

    def work(item):
        made.append(item.name)
        return {"fingerprint": item.fingerprint(), "seconds": 2.0, "value": len(made)}

    def go(names, counts=bool):
        made.clear()
        records = run_cached("test", work, [Item(name) for name in names], file, 1, said.append, str, counts)
        return [record["fingerprint"] for record in records]

    assert go("ab") == ["of a", "of b"] and made == ["a", "b"]
    assert said[0] == f"test: 2 trainings, 0 of them in {file}" and said[2].startswith("2/2  ")
    file.write_text(file.read_text() + '{"fingerprint": "of c", ')  # as a killed process leaves it
    assert go("cab") == ["of c", "of a", "of b"] and made == ["c"]
    assert set(read_runs(file)) == {"of a", "of b", "of c"}
    go("abc", counts=lambda record: record["fingerprint"] != "of b")
    assert made == ["b"]
    go("abc")
    assert made == []
    go("dd")
    assert made == ["d"]  # equal trainings are one
