"""Damaged and hostile folders of trainings: `mcir report` writes a page of limited size, in limited time."""

import json
import os
import random
import time

import pytest

from mcir.report.run import write_report
from tests.report.runs import START, as_lines, compared, train_line, val_line, write_run
from tests.trust.campaign import Campaign

SEED = 1309
SECRET = "the-content-of-a-file-outside"
HOSTILE = [
    None, True, -1, 0, 10**19, 10**400, 1e308, -1e308, 5e-324, "inf", "nan", "", "x" * 100_000, "\x1b[2J", "<b>", [],
    {}, [[[[1]]]], {"a": {"b": 1}}, "\ud800",
]  # fmt: skip


def mutated(record, random_):
    """Return a record in which one value is replaced, removed or repeated under another name."""
    record = dict(record)
    key = random_.choice(list(record))
    change = random_.randrange(4)
    if change == 0:
        del record[key]
    elif change == 1:
        record[f"{key}{random_.randrange(99)}"] = record[key]
    else:
        record[key] = random_.choice(HOSTILE)
    return record


def damage(folder, random_):
    """Change the files of a run."""
    records = [mutated(train_line(10), random_) for _ in range(3)] + [mutated(val_line(100, 30.0), random_)]
    text = (folder / "results.jsonl").read_text()
    lines = (text + as_lines(records)).splitlines()
    line = random_.randrange(len(lines))
    lines[line] = lines[line][: random_.randrange(len(lines[line]) + 1)] + random_.choice(["", "[" * 2000, "\0", "{}"])
    (folder / "results.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    starts = [mutated({**START, "iteration": 0, "changes": ["- a", "+ b"]}, random_) for _ in range(3)]
    (folder / "environment.jsonl").write_text(as_lines(starts), encoding="utf-8", errors="surrogatepass")
    (folder / "options.yml").write_text(
        random_.choice(["[" * 5000, "a: 1", "- a", "a: " + "9" * 5000, "\0", "%YAML 9.9"])
    )
    (folder / "collapse.json").write_text(
        json.dumps(mutated({"iteration": 5, "scalars": ["l"], "options": ""}, random_))
    )
    images = sorted((folder / "progress").rglob("*.jpg"))
    data = random_.choice(images).read_bytes()
    random_.choice(images).write_bytes(data[: random_.randrange(len(data))])


@pytest.mark.parametrize("number", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_folders(tmp_path, number):
    campaign, random_ = Campaign("folders of trainings", SEED, limit_s=60), random.Random(SEED)
    for index in range(number):
        folder = write_run(tmp_path / str(index))
        damage(folder, random_)

        def report(folder=folder):
            try:
                write_report([folder], folder / "report.html")
            except (ValueError, OSError) as error:  # whatever the folder contains, the page is written
                raise RuntimeError("There is no page.") from error
            return b"\x1b" not in (folder / "report.html").read_bytes()

        campaign.attempt(f"mutant {index}", report)
    campaign.finish()


def report(folder):
    begin = time.monotonic()
    write_report([folder], folder / "report.html")
    assert time.monotonic() - begin < 60  # nothing waits without end
    return (folder / "report.html").read_text("utf-8")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the platform has no named pipes")
def test_pipes_are_not_opened(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("options.yml", "environment.jsonl", "progress/photographs/cat/100.jpg"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    os.mkfifo(folder / "collapse.json")
    page = report(folder)
    for name in ("options.yml", "environment.jsonl", "progress/photographs/cat/100.jpg"):
        assert f"{name}: is a named pipe, not a file." in page


def test_links_do_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.yml").write_text(f"password: {SECRET}\n")
    other = write_run(tmp_path / "other", image=SECRET, data_set=SECRET)
    folder = write_run(tmp_path / "run")
    (folder / "options.yml").unlink()
    (folder / "options.yml").symlink_to(tmp_path / "secret.yml")
    (folder / "results.jsonl").unlink()
    (folder / "results.jsonl").symlink_to(other / "results.jsonl")
    (folder / "progress/photographs/cat/100.jpg").unlink()
    (folder / "progress/photographs/cat/100.jpg").symlink_to(other / f"progress/{SECRET}/{SECRET}/100.jpg")
    (folder / "progress/root").symlink_to("/")
    (folder / "progress/loop").symlink_to(folder / "progress")
    page = report(folder)
    assert SECRET not in page
    assert page.count("is a link that leads out of run.") == 3
    link = tmp_path / "link"
    link.symlink_to(folder)  # the folder itself may be a link
    assert report(link).count("is a link that leads out of") == 3


def test_numbers_of_values_are_limited(tmp_path):
    folder = write_run(tmp_path / "run")
    lines = [train_line(1, **{f"l_{number}": 1.0 for number in range(5000)}, **{"n" * 100_000: 1.0})]
    lines += [val_line(1, 30.0, data_set=f"set {number}") for number in range(2000)]
    (folder / "results.jsonl").write_text(as_lines(lines))
    (folder / "environment.jsonl").write_text(as_lines([{**START, "iteration": at} for at in range(5000)]))
    (folder / "options.yml").write_text("".join(f"a{number}: 1\n" for number in range(9000)))
    page = report(folder)
    assert len(page) < 10 * 2**20
    for sentence in (
        "more names of values or data sets are not shown.",
        "only the last 100 of 5,000 starts are shown.",
        "only the first 2,000 of 9,000 lines are shown.",
    ):
        assert sentence in page


def test_files_are_limited(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    with (folder / "environment.jsonl").open("wb") as file:
        file.truncate(2**40)  # a sparse file
    (folder / "options.yml").write_bytes(b"a" * 2**18)
    (folder / "results.jsonl").write_bytes(b"{}\n" * 1_000_001)
    image = folder / "progress/photographs/cat/100.jpg"
    image.write_bytes(image.read_bytes() + b"\0" * 2**20)
    page = report(folder)
    for name in ("environment.jsonl", "options.yml", "results.jsonl", "progress/photographs/cat/100.jpg"):
        assert f"{name}: is too large (expected at most " in page


def test_thousands_of_images(tmp_path):
    from mcir.report.progress import store_images

    folder = write_run(tmp_path / "run")
    store_images(folder, "photographs", "cat", 100, compared(0.2))
    data = (folder / "progress/photographs/cat/100.jpg").read_bytes()
    for number in range(3000):
        (folder / f"progress/photographs/cat/{number}.jpg").write_bytes(data)
    assert len(report(folder)) < 10 * 2**20
