"""Figure 2 of the MCIR paper: gains over tasks, the paper's and ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mcir
from mcir.launch import Log
from mcir.report.figures import grouped_bars
from mcir.report.page import Report, Section
from mcir.tables.commands import GainsFigure
from mcir.tables.formatting import MISSING, signed
from mcir.tables.plan import plan
from mcir.tables.published import COLLAPSED, read_table
from mcir.tables.render import write_results
from mcir.tables.reproduce import evaluate_trainings, state_lines
from mcir.tables.results import Results

NAME, TITLE = "fig2", "Gains over the same networks without negatives, for all tasks"
TASKS = {"table1": "Super-resolution", "table2": "Deraining", "table3": "Dehazing", "table4": "Deblurring"}
"""The tables of the figure, with their tasks."""


def reproduce_gains(command: GainsFigure, log: Log = print) -> int:
    """Write the gains over the same networks without negatives for all tasks: the paper's and ours.

    Returns:
        0 if we have a gain, or a collapsed training, wherever the paper has a gain, otherwise 1.

    Raises:
        ValueError: the settings are not valid.
    """
    log(f"{NAME}: {TITLE}\n")
    sections, gains, states = [], list[dict[str, Any]](), []
    for table in map(read_table, TASKS):
        compared = [row.name for row in table.rows if row.against]
        table_command = command.table_command(compared)
        runs = plan(table, table_command)
        results = evaluate_trainings(table, runs, table_command, log)
        found = _gains(results)
        sections.append(_gain_section(results, found))
        gains += found
        states += [table.name, *state_lines(runs, results.problems()), ""]
    log("\n".join(["", *states]))
    introduction = [
        "A gain is the difference of the first metric to that of the same network without negatives, on the same data "
        "set. The paper's gains are differences of the numbers in its tables. Ours are shown where both trainings have "
        "results that can be compared."
    ]
    report = Report(
        f"{NAME}: {TITLE}",
        [
            Section("What is shown", introduction),
            *sections,
            Section("Trainings, and what is missing", code="\n".join(states), folded=True),
        ],
    )
    data = {"figure": NAME, "title": TITLE, "mcir": mcir.__version__, "gains": gains}
    write_results(command.results, NAME, data, report, log)
    return 1 if any(gain["ours"] is None and gain["collapse"] is None for gain in gains) else 0


def _gains(results: Results) -> list[dict[str, Any]]:
    """Return the gains of all compared rows by data set, in the first metric."""
    table = results.table
    metric, found = table.metrics[0], []
    for other, row in results.compared_rows():
        published, ours = results.gains(row, metric, published=True), results.gains(row, metric)
        for column in table.columns:
            cell = results.cell(row, column)
            gain: dict[str, Any] = {"published": published.get(column.name), "ours": ours.get(column.name)}
            gain["collapse"] = cell.collapse if cell is not None and cell.collapse else None
            if not column.mean_of and any(value is not None for value in gain.values()):
                facts = {"table": table.name, "row": row.name, "against": other.name, "metric": metric}
                found.append({**facts, "set": column.name, **gain})
    return found


def _gain_section(results: Results, gains: Sequence[Mapping[str, Any]]) -> Section:
    """Return the section of a task: a table of all gains, and a drawing for each row."""
    metric = results.table.metrics[0]
    section = Section(f"{TASKS[results.table.name]} ({results.table.name})")
    section.table = [["row", "set", f"paper, {metric}", f"ours, {metric}"]]
    for row in dict.fromkeys(gain["row"] for gain in gains):
        of_row = [gain for gain in gains if gain["row"] == row]
        series = {
            name: {gain["set"]: gain[key] for gain in of_row if gain[key] is not None}
            for name, key in (("paper", "published"), ("ours", "ours"))
        }
        section.figures.append(grouped_bars(series, f"{row}: gain over {of_row[0]['against']}", metric))
        for gain in of_row:
            texts = [MISSING if gain[key] is None else signed(gain[key], 2) for key in ("published", "ours")]
            if gain["collapse"]:
                texts[1] = f"{COLLAPSED} ({gain['collapse']})"
            section.table.append([row, gain["set"], *texts])
    return section
