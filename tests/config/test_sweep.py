"""Sweeps: names of runs, their changes, and errors."""

from pathlib import Path

import pytest

from mcir.config import OptionError, load, runs_of

AXES = """
sweep:
  train.optim_g.lr: [1e-4, 1e-3]
"""
RUNS = """
sweep:
  plain: {model_type: RestorationModel, train.contrastive_opt: {type: SPNLoss, weights: random}}
  slow: {train.optim_g: {lr: 1e-6}}
  other: {train.optim_g: {type: SGD, lr: 0.1}}
"""


def test_a_list_of_values_gives_a_run_for_each_value(write, good):
    file = write(good + AXES)
    assert runs_of(file) == ["lr_0.0001", "lr_0.001"]
    name = load(write(good, "plain.yml")).name
    for run, rate in (("lr_0.0001", 1e-4), ("lr_0.001", 1e-3)):
        options = load(file, [f"sweep={run}"])
        assert options.train.model.optim_g.lr == rate
        assert options.name == f"{name}_{run}"


def test_several_lists_form_a_grid(write, good):
    file = write(good + "\nsweep: {manual_seed: [1, 2], train.negatives.steps: [[100], [100, 500]]}\n")
    runs = runs_of(file)
    assert runs == [f"manual_seed_{seed}_steps_{steps}" for seed in (1, 2) for steps in ("100", "100-500")]
    options = load(file, [f"sweep={runs[3]}"])
    assert (options.manual_seed, options.train.model.negatives.steps) == (2, (100, 500))


def test_named_runs_override_the_file(write, good):
    file = write(good + RUNS)
    assert runs_of(file) == ["plain", "slow", "other"]
    before, slow = load(write(good, "plain.yml")), load(file, ["sweep=slow"])
    assert slow.train.model.optim_g == {**before.train.model.optim_g, "lr": 1e-6}  # merged
    assert load(file, ["sweep=other"]).train.model.optim_g == {"type": "SGD", "lr": 0.1}  # replaced: another class


def test_a_run_replaces_a_mapping_argument(write, good):
    loss = "{type: SPNLoss, layer_weights: {relu1_2: 1}}"
    for change in ("train.contrastive_opt: {layer_weights: {relu2_2: 2}}",
                   "train.contrastive_opt.layer_weights: {relu2_2: 2}"):  # fmt: skip
        file = write(good.replace("{type: SPNLoss}", loss) + f"sweep:\n  deep: {{{change}}}\n")
        assert load(file, ["sweep=deep"]).train.model.contrastive_opt.layer_weights == {"relu2_2": 2.0}


def test_the_command_line_overrides_the_run_and_the_run_the_file(write, good):
    file = write(good + AXES)
    options = load(file, ["train.optim_g.lr=5", "sweep=lr_0.001", "name=mine"])
    assert (options.train.model.optim_g.lr, options.name) == (5, "mine")


def test_a_sweep_may_be_in_a_base(write, good, tmp_path):
    base = write(good + AXES)
    above = tmp_path / "above.yml"
    above.write_text(f"_base_: {base}\nname: above\n")
    assert runs_of(above) == ["lr_0.0001", "lr_0.001"]
    assert load(above, ["sweep=lr_0.001"]).name == "above_lr_0.001"


def test_a_resolved_run_is_an_ordinary_file(write, good):
    dumped = load(write(good + AXES), ["sweep=lr_0.001"]).dump()
    assert "sweep" not in dumped
    assert load(write(dumped)).dump() == dumped


def test_a_file_without_sweep_has_no_runs(write, good):
    assert runs_of(write(good)) == []
    assert runs_of(write(good + "\nsweep:\n")) == []
    with pytest.raises(OptionError, match="no sweep, so --set sweep=x has no effect"):
        load(write(good, "plain.yml"), ["sweep=x"])


def test_a_run_must_be_selected(write, good):
    with pytest.raises(OptionError) as caught:
        load(write(good + AXES))
    for part in ("describes 2 runs", "--set sweep=lr_0.0001", "mcir reproduce", "lr_0.0001, lr_0.001"):
        assert part in str(caught.value)
    with pytest.raises(OptionError, match=r"no run 'lr_0.01'. Did you mean 'lr_0.001'"):
        load(write(good + AXES), ["sweep=lr_0.01"])


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("3", "expected options with lists"),
        ("{}", "expected options with lists"),
        ("{scale: 2}", "got a single value for 'scale'"),
        ("{scale: [2], plain: {}}", "got both lists and sections"),
        ("{scale: []}", "'scale' has no values"),
        ("{scale: [2, 2]}", "Two runs have the same name 'scale_2'"),
    ],
)
def test_invalid_sweeps(write, good, sweep, message):
    file = write(f"{good}\nsweep: {sweep}\n")
    with pytest.raises(OptionError, match=message) as caught:
        runs_of(file)
    line = next(
        number for number, text in enumerate(Path(file).read_text().splitlines(), 1) if text.startswith("sweep")
    )
    assert f":{line}: sweep: " in str(caught.value)


def test_an_invalid_value_of_a_run_is_located(write, good):
    file = write(good + "\nsweep:\n  train.optim_g.lr:\n    - true\n    - 1e-3\n")
    line = next(number for number, text in enumerate(Path(file).read_text().splitlines(), 1) if text == "    - true")
    with pytest.raises(OptionError, match=f":{line}: train.optim_g.lr: "):
        load(file, ["sweep=lr_True"])
