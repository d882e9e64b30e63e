"""Mutated option files: each is accepted or ends in one readable message, within time and memory."""

import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trust.campaign import Campaign

SEED = 1303
ROOT = Path(__file__).parents[2]
FILES = ["options/quickstart.yml", "options/sr/edsr_light_x4_spn.yml", "options/tables/table7.yml"]
VALUES = [
    "~", ".nan", "-.inf", "1e999", "9" * 5000, "1" + "0" * 400, "-1", "''", "[]", "{}", "[[[[1]]]]", "*a", "&a [*a]",
    "&a 1", "{<<: *a}", "<<", "!!python/object/apply:os.system [id]", "!!binary aGk=", "'\u202e'", "\u200b", "\u00a0x",
    "\uff1a", "\t", '"\\0"', '"\\e[2J"', '"\\UFFFFFFFF"', "x" * 100_000, "[" * 3000, "{a: " * 2000, "- " * 500, "|",
    ">-", "'", '"', "%", "@", "/dev/zero", "../../x", "~nobody/x", "$HOME", "no", "0x10", "2024-01-01", "{type: EDSR}",
    "{type: [1]}", "{type: {}}", "[1, [2, {a: 3}]]", "1.0e18", "1e300", "true", "🙂", "[red]x[/y]",
]  # fmt: skip
MEMORY = 6 * 2**30  # of addresses; torch alone takes half


def mutants(texts, number, seed):
    """Yield option files in which up to three lines are replaced, repeated, moved, removed or damaged."""
    random_ = random.Random(seed)
    for _ in range(number):
        lines = random_.choice(texts).splitlines()
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(lines))
            key, colon, _ = lines[at].partition(":")
            change = random_.randrange(8)
            if change <= 2 and colon:
                lines[at] = f"{key}: {random_.choice(VALUES)}"
            elif change == 3:
                lines.insert(at, lines[random_.randrange(len(lines))])
            elif change == 4 and len(lines) > 2:
                del lines[at]
            elif change == 5:
                lines[at] = " " * random_.randrange(12) + lines[at].strip()
            elif change == 6:
                position = random_.randrange(len(lines[at]) + 1)
                extra = random_.choice(
                    ["\0", "\x1b", "\x85", "\ufeff", "[", "{", ":", "#", "'", "&a ", "*a", "\u200b", "\t"]
                )
                lines[at] = lines[at][:position] + extra + lines[at][position:]
            else:
                lines[at] = f"{key.strip() or 'a'}{random_.randrange(9)}: {random_.choice(VALUES)}"
        yield "\n".join(lines) + "\n"


def attempt(folder, text, overrides):
    """Load an option file; the message of an error is short and names a place."""
    from mcir.config import OptionError, load

    file = folder / "mutant.yml"
    file.write_text(text, encoding="utf-8")
    try:
        load(file, overrides, run_imports=False).dump()
    except OptionError as error:
        lines = str(error).splitlines()
        return all(": " in line or line.startswith("…") for line in lines) and max(map(len, lines)) < 4000
    return True


def run_campaign(folder, number):
    texts = [(ROOT / name).read_text("utf-8") for name in FILES]
    assert attempt(folder, texts[0], [])  # imports torch
    campaign = Campaign("option files", SEED, limit_s=20)
    for index, text in enumerate(mutants(texts, number, SEED)):
        overrides = [] if index % 3 else [f"train.total_iter={VALUES[index % len(VALUES)]}"]
        campaign.attempt(
            f"mutant {index}: {text[:2000]}", lambda text=text, given=overrides: attempt(folder, text, given)
        )
    campaign.finish()


@pytest.mark.parametrize("number", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_option_files(tmp_path, number):
    run_campaign(tmp_path, number)


def test_bombs_stay_within_memory(tmp_path):
    """The hostile files of the issue, in a process whose memory is limited."""
    aliases = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    aliases += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 28)]
    (tmp_path / "bomb.yml").write_text("\n".join(aliases))
    (tmp_path / "merge.yml").write_text("\n".join(aliases).replace("[x,", "{x:").replace("x]", "x}"))
    (tmp_path / "deep.yml").write_text("a: " + "[" * 100_000)
    (tmp_path / "base.yml").write_text("_base_: /dev/zero\n")
    (tmp_path / "digits.yml").write_text("scale: " + "9" * 900_000)
    (tmp_path / "grid.yml").write_text(f"sweep: {{a: [{'1,' * 5000}], b: [{'1,' * 5000}], c: [{'1,' * 5000}]}}\n")
    code = (
        "import sys\nfrom mcir.config import OptionError, load\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        load(name)\n"
        "    except OptionError as error:\n        print(len(str(error)))\n"
    )
    files = [*sorted(tmp_path.glob("*.yml")), "/dev/zero"]
    command = [sys.executable, "-c", code, *map(str, files)]

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))

    ended = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.split()) == len(files)
    assert all(int(length) < 1000 for length in ended.stdout.split())
