"""Write docs/results/*.md and *.html again from the stored numbers. No training is repeated.

python docs/make_results.py
"""

import json
from pathlib import Path

from mcir.tables.commands import reproduce_commands
from mcir.tables.mini_report import mini_report
from mcir.tables.study import read_study

RESULTS = Path(__file__).parent / "results"
_NUMBERS = ("steps", "batch", "patch", "proxy_steps", "proxy_rate")


def main(folder: Path = RESULTS) -> None:
    """Write the pages of all stored studies to a folder."""
    for file in sorted(RESULTS.glob("*.json")):
        data = json.loads(file.read_text())
        study = read_study(file.stem)
        command = reproduce_commands()[study.name](features=data[study.flag.removeprefix("--")])
        numbers = {name: data[name] for name in _NUMBERS if name in data}
        report, _ = mini_report(study, command, data["runs"], data.get("pretrainings", ()), numbers)
        if "note" in data:
            report.sections[-1].paragraphs.insert(1, data["note"])
        report.write(folder, study.name)


if __name__ == "__main__":
    main()
