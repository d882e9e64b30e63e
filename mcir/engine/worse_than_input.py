"""A warning about results that are worse than the degraded input."""

from collections.abc import Iterator, Sequence

from mcir.config import Options
from mcir.engine.evaluation import Evaluation
from mcir.report.metric import format_value


def worse_than_input(options: Options, evaluations: Sequence[Evaluation], trained: bool) -> str | None:
    """Return a line about the first data set whose first metric is worse than that of its input; None: there is none.

    Args:
        options: options of the run, whose values the line names as possible causes.
        evaluations: results by data set.
        trained: whether the network was just trained with these options.
    """
    for evaluation in evaluations:
        for name, score in list(evaluation.scores.items())[:1]:
            if score.gain < 0:
                value, of_input = (format_value(number, score.unit) for number in (score.mean, score.of_input))
                causes = ", ".join(_training_causes(options) if trained else _testing_causes(options))
                values = f"{name} {value}, {evaluation.baseline} {of_input} ({evaluation.name})"
                return f"The result is worse than the input: {values}. Usual causes: {causes}."
    return None


def _training_causes(options: Options) -> Iterator[str]:
    assert options.train is not None and options.datasets.train is not None
    model = options.train.model
    yield f"too few iterations (train.total_iter: {options.train.total_iter})"
    if (rate := model.get("optim_g", {}).get("lr")) is not None:
        yield f"the learning rate (train.optim_g.lr: {rate:g})"
    if options.datasets.train.section.get("dataroot_lq"):
        yield "degraded and clear images that are swapped or misaligned (datasets.train)"
        if options.scale != 1:
            yield f"a wrong scale (scale: {options.scale})"
    if contrastive := model.get("contrastive_opt"):
        weight = contrastive.get("loss_weight", "its default")
        yield f"a contrastive loss that dominates (train.contrastive_opt.loss_weight: {weight})"


def _testing_causes(options: Options) -> Iterator[str]:
    yield "weights for another degradation, or of a training that was too short"
    if any(part.section.get("dataroot_lq") for part in options.datasets.test.values()):
        yield "degraded and clear images that are swapped or misaligned (datasets.test)"
    if options.scale != 1:
        yield f"a wrong scale (scale: {options.scale})"
