"""Results that are computed once."""

from dataclasses import dataclass

from mcir.tables.cache import RunCache, run_cached


@dataclass(frozen=True)
class Item:
    fingerprint: str


def test_results_in_the_file_are_not_computed_again(tmp_path):
    file, made, lines = tmp_path / "out/runs.jsonl", [], []

    def work(item):
        made.append(item.fingerprint)
        return {"fingerprint": item.fingerprint, "seconds": 2.0, "value": len(made)}

    def run(names, is_valid=bool):
        made.clear()
        items = [Item(name) for name in names]
        records = run_cached("test", work, items, RunCache(file), 1, lines.append, str, is_valid)
        return [record["fingerprint"] for record in records]

    assert run("ab") == ["a", "b"] and made == ["a", "b"]
    assert lines[0] == f"test: 2 trainings, 0 of them in {file}" and lines[2].startswith("2/2  ")
    file.write_text(file.read_text() + '{"fingerprint": "c", ')  # a killed process leaves half a line
    assert run("cab") == ["c", "a", "b"] and made == ["c"]
    assert set(RunCache(file).records) == {"a", "b", "c"}
    run("abc", is_valid=lambda record: record["fingerprint"] != "b")
    assert made == ["b"]
    run("abc")
    assert made == []
    run("dd")
    assert made == ["d"]  # equal items are one


def test_infinite_values_and_foreign_lines(tmp_path):
    cache = RunCache(tmp_path / "runs.jsonl")
    cache.add({"fingerprint": "a", "psnr": float("inf")})
    with cache.file.open("a") as lines:
        lines.write('{"alien": 1}\n[4]\n')
    assert RunCache(cache.file).records == {"a": {"fingerprint": "a", "psnr": float("inf")}}
