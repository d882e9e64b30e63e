"""Compare `mcir new --contrastive none` and `spn` on the bundled photographs, with the same processor time for both.

    python benchmarks/contrastive_budget.py [--seconds 120] [--seeds 2] [--tasks sr deblur]

Each training gets the number of iterations that take the given processor time, so that other programs do not change the
comparison. Prints the gain in PSNR over the degraded validation images, after the last iteration.
"""

import argparse
import contextlib
import io
import os
import tempfile
import time

from mcir.cli import main
from mcir.config import Options, load
from mcir.engine.batches import TrainBatches
from mcir.engine.distributed import init_distributed
from mcir.engine.fit import fit
from mcir.engine.trainer import Trainer
from mcir.registry import MODELS


def step_time(options: Options) -> float:
    """Return the processor time of a training step, in seconds."""
    assert options.datasets.train is not None
    with init_distributed("cpu", options.dist_params) as dist:
        batches = TrainBatches(options.datasets.train, 0, dist).iterate()
        model = MODELS.build(options.model_section())
        fit(model, batches, total=3)
        begin = time.process_time()
        fit(model, batches, total=23, start=3)
        return (time.process_time() - begin) / 20


def gain(file: str, iterations: int, seed: int) -> float:
    """Train, and return the gain in dB."""
    name = f"{file.removesuffix('.yml')}_{seed}"
    lengths = [f"{key}={iterations}" for key in ("train.total_iter", "train.scheduler.T_max", "val.val_freq")]
    same = ["datasets.val.gt_size=null", "num_gpu=cpu", "logger.report=false"]
    options = load(file, [*lengths, *same, f"manual_seed={seed}", f"name={name}"])
    with init_distributed("cpu", options.dist_params) as dist:
        trainer = Trainer(options, dist)
        trainer.train()
    score = trainer.last_evaluations[0].scores["psnr"]
    return score.mean - score.of_input


def run() -> None:
    """Train both methods for all tasks and seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", default=["sr", "deblur"])
    arguments = parser.parse_args()
    os.chdir(tempfile.mkdtemp())
    with contextlib.redirect_stdout(io.StringIO()):
        main(["prepare", "photographs", "photos"])
    for task in arguments.tasks:
        for method in ("none", "spn"):
            file = f"{task}_{method}.yml"
            command = ["new", task, "--gt", "photos", "-o", file, "--budget", "10m", "--contrastive", method]
            with contextlib.redirect_stdout(io.StringIO()):
                main(command)
            step = step_time(load(file))
            iterations = int(arguments.seconds / step)
            gains = []
            for seed in range(arguments.seeds):
                with contextlib.redirect_stdout(io.StringIO()):
                    gains.append(gain(file, iterations, seed))
            values = ", ".join(f"{value:+.2f}" for value in gains)
            print(f"{task:8} {method:5} {step:.3f} s per step, {iterations:5} iterations: {values} dB", flush=True)


if __name__ == "__main__":
    run()
