"""The key numbers of a training, shown as cards at the top of its page."""

from __future__ import annotations

from statistics import median

from mcir.report.page import Card
from mcir.report.records import Run


def run_cards(run: Run) -> list[Card]:
    """Return the cards of a training: the first metric of each validation set, speed and parameters."""
    cards = [card for data_set in run.metrics for card in _metric_cards(run, data_set)]
    if speeds := [speed for _, speed in run.scalars.get("images_per_s", [])]:
        cards.append(Card("speed", f"{median(speeds):.3g} images/s", "median over the training"))
    parameters = run.starts[-1].get("parameters") if run.starts else None
    if isinstance(parameters, int):
        cards.append(Card("parameters", f"{parameters:,}", str(run.starts[-1].get("network") or "")))
    return cards


def _metric_cards(run: Run, data_set: str) -> list[Card]:
    """Return the last value, the gain over the input and the best iteration of the first metric of a data set."""
    name, metric = next(iter(run.metrics[data_set].items()))
    (at, last), (best_at, best), reference = metric.last, metric.best, metric.baseline_value
    of = f" of {data_set}" if len(run.metrics) > 1 else ""
    cards = [Card(f"last {name}{of}", metric.format(last), f"at iteration {at:,}")]
    if reference is not None:
        remark = f"over {metric.baseline}, {metric.format(reference)}"
        cards.append(Card(f"gain in {name}{of}", metric.format(last - reference, "+"), remark))
    return [*cards, Card(f"best iteration{of}", f"{best_at:,}", f"{name} {metric.format(best)}")]
