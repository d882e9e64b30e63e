"""The cache of results."""

from dataclasses import dataclass
from pathlib import Path

from mcir.tables.cache import RunCache, run_cached


@dataclass(frozen=True)
class Item:
    fingerprint: str
    folder: Path
    title = "a training"


def test_cached_results_are_not_computed_again(tmp_path):
    file, computed, lines = tmp_path / "out/runs.jsonl", [], []

    def work(item):
        computed.append(item.fingerprint)
        item.folder.mkdir()
        return {"psnr": float(len(computed))}

    def run(names, is_valid=bool):
        computed.clear()
        items = [Item(name, tmp_path / name) for name in names]
        records = run_cached("test", work, items, RunCache(file), 1, lines.append, is_valid)
        assert not any(item.folder.exists() for item in items)
        return [record["fingerprint"] for record in records]

    assert run("ab") == ["a", "b"] and computed == ["a", "b"]
    assert lines[0] == f"test: 2 trainings, 0 of them in {file}" and lines[2].startswith(
        "2/2  a training: 2.000 dB in "
    )
    file.write_text(file.read_text() + '{"fingerprint": "c", ')  # a killed process leaves half a line
    assert run("cab") == ["c", "a", "b"] and computed == ["c"]
    assert set(RunCache(file).records) == {"a", "b", "c"}
    run("abc", is_valid=lambda record: record["fingerprint"] != "b")
    assert computed == ["b"]
    run("abc")
    assert computed == []
    run("dd")
    assert computed == ["d"]  # equal items are computed once


def test_infinite_values_and_invalid_lines(tmp_path):
    cache = RunCache(tmp_path / "runs.jsonl")
    cache.add({"fingerprint": "a", "psnr": float("inf")})
    with cache.file.open("a") as lines:
        lines.write('{"alien": 1}\n[4]\n')
    assert RunCache(cache.file).records == {"a": {"fingerprint": "a", "psnr": float("inf")}}
