"""Evaluation in one or several processes, compared with the metrics of each image."""

import threading

import cv2
import pytest
import torch

from mcir.data import imresize
from mcir.engine.distributed import DistContext
from mcir.engine.evaluation import EvaluationInterrupted, EvaluationSet, Score
from mcir.metrics import PSNR, SSIM
from mcir.report.comparison import picture

CPU = torch.device("cpu")
SINGLE = DistContext(0, 1, CPU)


class Pairs(torch.utils.data.Dataset):
    """Random pairs of different difficulty, whose names are not in alphabetical order."""

    names = ("e", "b", "d", "a", "c")

    def __init__(self, count=5, scale=2):
        generator = torch.Generator().manual_seed(0)
        self.items = []
        for number in range(count):
            gt = torch.rand(3, 16, 20, generator=generator) * (number + 1) / count
            lq = torch.nn.functional.avg_pool2d(gt, scale) if scale > 1 else gt * 0.9
            name = f"{self.names[number]}.png"
            self.items.append({"lq": lq, "gt": gt, "lq_path": f"lq/{name}", "gt_path": f"gt/{name}"})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Processes:
    """A simulation of the processes of a run with threads, which implements ``gather``."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count)
        self.values = [None] * count

    def process(self, rank):
        processes = self

        class Rank(DistContext):
            def gather(self, value):
                processes.values[rank] = value
                processes.barrier.wait(30)
                everything = list(processes.values)
                processes.barrier.wait(30)
                return everything

        return Rank(rank, len(self.values), CPU)


def parallel(count, dataset, evaluate):
    """Return the result or the error of ``evaluate(part, rank)`` in each rank."""
    processes, results = Processes(count), [None] * count

    def work(rank):
        part = EvaluationSet("set", dataset, metrics(), processes.process(rank), scale=2)
        try:
            results[rank] = evaluate(part, rank)
        except EvaluationInterrupted as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert None not in results
    return results


def shared(count, dataset, restore=None, **options):
    """Return the evaluation of each rank."""
    return parallel(count, dataset, lambda part, rank: part.evaluate(restore or enlarge, **options))


def metrics():
    return {"psnr": PSNR(crop_border=2), "ssim": SSIM()}


def enlarge(lq):
    return torch.nn.functional.interpolate(lq, scale_factor=2.0)


def reference_score(dataset, restore, metric):
    values = {}
    for item in dataset.items:
        values[item["gt_path"][3:-4]] = float(metric(restore(item["lq"][None]), item["gt"][None]))
    return values


def test_scores_are_the_means_of_the_metrics_of_each_image():
    dataset = Pairs()
    evaluation = EvaluationSet("noise", dataset, metrics(), SINGLE, scale=2).evaluate(enlarge)
    assert evaluation.name == "noise"
    assert list(evaluation.scores) == ["psnr", "ssim"]
    for key, metric in metrics().items():
        score = evaluation.scores[key]
        expected = reference_score(dataset, enlarge, metric)
        assert score.images == expected
        assert score.mean == pytest.approx(sum(expected.values()) / 5, rel=1e-12)
        assert len(set(expected.values())) == 5
        bicubic = reference_score(dataset, lambda lq: imresize(lq.double(), 2).float(), metric)
        assert score.of_input == pytest.approx(sum(bicubic.values()) / 5, rel=1e-12)
        assert score.of_input != score.mean
    assert [(score.unit, score.higher_is_better) for score in evaluation.scores.values()] == [("dB", True), ("", True)]


def test_an_input_with_the_size_of_the_output_is_not_enlarged():
    dataset = Pairs(scale=1)
    score = EvaluationSet("haze", dataset, {"psnr": PSNR()}, SINGLE).evaluate(lambda lq: lq / 0.9).scores["psnr"]
    inputs = reference_score(dataset, lambda lq: lq, PSNR())
    assert score.of_input == pytest.approx(sum(inputs.values()) / 5, rel=1e-12)
    assert score.mean > score.of_input


@pytest.mark.parametrize("count", [2, 3, 7])
def test_several_processes_give_the_results_of_one(count):
    """Five images cannot be divided equally; with seven processes two have none."""
    dataset = Pairs()
    single = EvaluationSet("set", dataset, metrics(), SINGLE, scale=2).evaluate(enlarge, pictures=3)
    for evaluation in shared(count, dataset, pictures=3):
        assert evaluation.scores == single.scores
        assert list(evaluation.scores["psnr"].images) == list(Pairs.names)
        assert evaluation.comparisons.keys() == single.comparisons.keys() == set(Pairs.names[:3])
        assert all((evaluation.comparisons[name] == single.comparisons[name]).all() for name in single.comparisons)


def test_every_image_is_restored_once():
    seen = []

    def restore(lq):
        seen.append(float(lq.sum()))
        return enlarge(lq)

    dataset = Pairs()
    shared(3, dataset, restore)
    assert sorted(seen) == sorted(float(item["lq"][None].sum()) for item in dataset.items)


def test_the_metrics_of_the_input_are_computed_once():
    calls = []

    class Counted(PSNR):
        def __call__(self, output, gt):
            calls.append(output)
            return super().__call__(output, gt)

    part = EvaluationSet("set", Pairs(), {"psnr": Counted()}, SINGLE, scale=2)
    first = part.evaluate(enlarge)
    assert len(calls) == 10
    again = part.evaluate(lambda lq: enlarge(lq).flip(-1), pictures=2)
    assert len(calls) == 15
    assert again.scores["psnr"].of_input == first.scores["psnr"].of_input
    assert again.scores["psnr"].mean != first.scores["psnr"].mean
    assert len(again.comparisons) == 2  # with the enlarged input, though it was not measured again


def test_restored_images_are_saved_with_their_suffix(tmp_path):
    dataset = Pairs()
    part = EvaluationSet("set", dataset, metrics(), SINGLE, scale=2)
    part.evaluate(enlarge, images_to=tmp_path / "deep" / "set", suffix="_100_mine")
    saved = {file.name: cv2.imread(str(file))[:, :, ::-1] for file in (tmp_path / "deep" / "set").iterdir()}
    assert saved.keys() == {f"{name}_100_mine.png" for name in Pairs.names}
    for item in dataset.items:
        name = item["gt_path"][3:-4]
        assert (saved[f"{name}_100_mine.png"] == picture(enlarge(item["lq"][None])[0])).all()


def test_without_metrics_there_are_only_comparisons():
    evaluation = EvaluationSet("set", Pairs(), {}, SINGLE, scale=2).evaluate(enlarge, pictures=1)
    assert evaluation.scores == {}
    assert list(evaluation.comparisons) == ["e"]


def test_an_evaluation_stops_before_the_next_image():
    restored = []
    part = EvaluationSet("set", Pairs(), metrics(), SINGLE, scale=2)
    with pytest.raises(EvaluationInterrupted):
        part.evaluate(lambda lq: restored.append(lq) or enlarge(lq), should_stop=lambda: len(restored) == 2)
    assert len(restored) == 2
    whole = EvaluationSet("set", Pairs(), metrics(), SINGLE, scale=2).evaluate(enlarge)
    assert part.evaluate(enlarge, should_stop=lambda: False).scores == whole.scores


def test_all_processes_raise_if_one_stops():
    def stop_in(rank):
        return lambda: rank == 1

    outcomes = parallel(3, Pairs(), lambda part, rank: part.evaluate(enlarge, should_stop=stop_in(rank)))
    assert [type(outcome) for outcome in outcomes] == [EvaluationInterrupted] * 3


def test_a_stop_after_the_last_image_does_not_interrupt():
    restored = []
    part = EvaluationSet("set", Pairs(), metrics(), SINGLE, scale=2)
    evaluation = part.evaluate(
        lambda lq: restored.append(lq) or enlarge(lq), should_stop=lambda: len(restored) == len(Pairs.names)
    )
    assert len(evaluation.scores["psnr"].images) == 5


@pytest.mark.parametrize(("higher_is_better", "quality"), [(True, 0.5), (False, -0.5)])
def test_a_larger_quality_is_better(higher_is_better, quality):
    assert Score(0.5, 0.25, "", higher_is_better, {}).quality == quality
