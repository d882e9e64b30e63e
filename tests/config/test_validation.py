"""Typical mistakes in option files, and the messages for them."""

import pytest

MISTAKES = {
    "typo in a key": (
        ("num_in_ch: 3", "num_in_chs: 3"),
        ["x.yml:11: network_g.num_in_chs: EDSR has no argument 'num_in_chs'. Did you mean 'num_in_ch'?"],
    ),
    "wrong type": (
        ("gt_size: 96", "gt_size: big"),
        ["x.yml:9: datasets.train.gt_size: expected an integer ≥ 1 or null, got 'big'."],
    ),
    "missing type": (
        ("type: L1Loss", "loss_weight: 1"),
        ["x.yml:16: train.pixel_opt: A loss requires 'type', the name of its class. Known names: …"],
    ),
    "unknown class": (
        ("type: EDSR", "type: EDRS"),
        ["x.yml:11: network_g.type: There is no architecture 'EDRS'. Did you mean 'EDSR'? Known names: …"],
    ),
    "tab": (
        ("    gt_size", "\tgt_size"),
        ["x.yml:9: The indentation contains a tab. YAML requires spaces."],
    ),
    "duplicate key": (
        ("    gt_size: 96", "    gt_size: 96\n    gt_size: 48"),
        ["x.yml:10: Duplicate key 'gt_size', first in line 9."],
    ),
    "missing base": (
        ("name: quick", "name: quick\n_base_: ../base.yml"),
        ["x.yml:2: _base_: '../base.yml': The file does not exist."],
    ),
    "lr: true": (
        ("lr: 1e-4", "lr: true"),
        ["x.yml:14: train.optim_g.lr: expected a finite number above 0, got true."],
    ),
    "unknown key at the top": (
        ("network_g:", "netwrok_g:"),
        ["x.yml:11: netwrok_g: There is no option 'netwrok_g'. Did you mean 'network_g'?"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_typical_mistakes(problems, good, mistake):
    (old, new), expected = MISTAKES[mistake]
    assert old in good
    found = problems(good.replace(old, new, 1))
    assert len(found) == len(expected)
    for line, message in zip(found, expected, strict=True):
        assert line == message or (message.endswith("…") and line.startswith(message[:-1]))


def test_a_typo_on_the_command_line_is_located_there(problems, good):
    assert problems(good, overrides=["train.total_itr=100"]) == [
        "--set train.total_itr=100: train.total_itr: ContrastiveModel has no argument 'total_itr'. "
        "Did you mean 'total_iter'?"
    ]


def test_all_mistakes_are_reported_at_once_by_line(problems, good):
    for old, new in (
        pair for name, (pair, _) in MISTAKES.items() if name not in ("tab", "duplicate key", "missing base")
    ):
        good = good.replace(old, new, 1)
    found = problems(good, overrides=["logger.print_frq=3"], force_yml=["name:x=1"])
    assert [line.partition(": ")[0] for line in found] == [
        "x.yml:9",
        "x.yml:11",
        "x.yml:14",
        "x.yml:16",
        "--force_yml name:x=1",
        "--set logger.print_frq=3",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scale: 2", "scale: 0", "x.yml:3: scale: expected an integer from 1 to 64, got 0."),
        ("name: quick", "", "x.yml:1: An option file requires 'name', text without slashes."),
        ("name: quick", "name: 007", "x.yml:1: name: expected text without slashes, got 7. Put it in quotes."),
        ("name: quick", "name: q\nnum_gpu: all", "x.yml:2: num_gpu: expected one of 'auto', 'cpu', "
         "'cuda', 'mps' or an integer ≥ 0, got 'all'."),
        ("name: quick", "name: q\nnum_gpu: -1", "x.yml:2: num_gpu: expected an integer ≥ 0, got -1."),
        ("name: quick", "name: q\nnum_gpu: 2.5", "x.yml:2: num_gpu: expected one of 'auto', 'cpu', 'cuda', "
         "'mps' or an integer ≥ 0, got 2.5."),
        ("name: quick", "name: q\nmanual_seed: ~", "x.yml:2: manual_seed: expected an integer ≥ 0, got null."),
        ("name: quick", "name: q\nlogger: 5", "x.yml:2: logger: expected a section (indented lines "
         "'key: value'), got 5."),
        ("name: quick", "name: q\ndist_params: {backend: ncl}", "x.yml:2: dist_params.backend: expected one of 'auto', "
         "'nccl', 'gloo', got 'ncl'. Did you mean 'nccl'?"),
        ("name: quick", "name: q\nnetwork_d: {type: EDSR}", "x.yml:2: network_d: ContrastiveModel has no "
         "argument 'network_d'. Did you mean 'network_g'?"),
        ("metrics: {psnr: {type: PSNR, crop_border: 2}}", "metrics: 0",
         "x.yml:19: val.metrics: expected a mapping, got 0."),
        ("scale: 2", "scale: 2\npath: {strict_load_g: 1}", "x.yml:4: path.strict_load_g: expected true or "
         "false, got 1."),
        ("metrics: {psnr: {type: PSNR", "metrics: {psnr: {type: PNSR", "x.yml:19: val.metrics.psnr.type: There is no "
         "metric 'PNSR'. Did you mean 'PSNR'?…"),
        ("val: {", "val: {val_frq: 3, ", "x.yml:19: val.val_frq: 'val' has no option 'val_frq'. "
         "Did you mean 'val_freq'?"),
        ("crop_border: 2}}", "crop_border: 2}}, best_by: [psnr, pnsr]", "x.yml:19: val.best_by: expected names of "
         "'val.metrics' (psnr), got 'pnsr'. Did you mean 'psnr'?"),
        ("metrics: {psnr: {type: PSNR, crop_border: 2}}", "best_by: [psnr]", "x.yml:19: val.best_by: expected names of "
         "'val.metrics' (none), got 'psnr'."),
        ("    batch_size_per_gpu: 4\n", "", "x.yml:5: datasets.train: PairedImageDataset requires "
         "'batch_size_per_gpu', an integer ≥ 1."),
        ("batch_size_per_gpu: 4", "batch_size: 4", "x.yml:10: datasets.train.batch_size: PairedImageDataset has no "
         "argument 'batch_size'. Did you mean 'batch_size_per_gpu'?"),
        ("batch_size_per_gpu: 4", "batch_size_per_gpu: 0", "x.yml:10: datasets.train.batch_size_per_gpu: expected an "
         "integer ≥ 1, got 0."),
        ("  train:\n    type", "  trian:\n    type", "x.yml:5: datasets.trian: There is no data set 'trian'. "
         "The keys are 'train' and names that start with 'val' or 'test'. Did you mean 'train'?"),
        ("    gt_size: 96", "    scale: 3", "x.yml:9: datasets.train.scale: expected 2, the scale at the top of the "
         "file, got 3. Leave it out here."),
        ("  total_iter: 5e3", "", "x.yml:12: train: ContrastiveModel requires 'total_iter', an integer ≥ 1."),
        ("  total_iter: 5e3", "  total_iter: 5e3\n  seed: 3", "x.yml:14: train.seed: Set 'manual_seed' at the top of "
         "the file instead."),
        ("  optim_g: {type: Adam, lr: 1e-4, betas: [0.9, 0.99]}\n", "", "x.yml:12: train: ContrastiveModel requires "
         "'optim_g', the section of an optimizer, {type: …}."),
        ("HistoryNegatives}", "HistoryNegatives, steps: [1, x]}", "x.yml:18: train.negatives.steps.1: expected an "
         "integer ≥ 1, got 'x'."),
    ],
)  # fmt: skip
def test_other_mistakes(problems, good, old, new, message):
    assert old in good
    found = problems(good.replace(old, new, 1))
    assert any(line == message or (message.endswith("…") and line.startswith(message[:-1])) for line in found)
    assert len(found) <= 2


def test_an_evaluation_set_has_no_batch_size(problems, good):
    text = good.replace("datasets:", "datasets:\n  val: {type: BundledPhotos, split: val, batch_size_per_gpu: 2}")
    assert problems(text) == [
        "x.yml:5: datasets.val.batch_size_per_gpu: Evaluation loads one image at a time. Remove this key."
    ]


def test_training_needs_both_its_section_and_its_data(problems, good):
    without_section = good[: good.index("train:\n  total_iter")]
    assert problems(without_section) == ["x.yml:1: There is a training set (datasets.train), but no section 'train'."]
    without_data = good.replace("  train:\n    type", "  val:\n    type").replace("    batch_size_per_gpu: 4\n", "")
    assert problems(without_data) == [
        "x.yml:4: datasets: There is a section 'train', but no training set (datasets.train)."
    ]
    assert problems("name: x\nmodel_type: RestorationModel\n") == [
        "x.yml:1: An option file requires 'datasets', a section with 'train', 'val' or 'test'.",
        "x.yml:1: An option file requires 'network_g', the section of an architecture, {type: …}.",
    ]


def test_the_rest_is_validated_if_the_model_is_unknown(problems, good):
    text = good.replace("ContrastiveModel", "ContrastModel").replace("EDSR", "EDRS")
    keys = [line.split(": ")[1] for line in problems(text)]
    assert keys == ["model_type", "network_g.type"]


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "''", "a\\b", "\u00a0a", "x" * 201])
def test_a_name_must_be_a_folder_name(problems, good, name):
    for key in ("name", "datasets.train.name"):
        (found,) = problems(good, overrides=[f"{key}='{name}'" if name != "''" else f"{key}=''"])
        assert f"{key}: expected the name of a file or folder, got " in found


@pytest.mark.parametrize("key", ["val/../../../ESCAPED", "test/x", "val_" + "x" * 200])
def test_the_key_of_a_data_set_is_its_name_by_default(problems, good, key):
    (found,) = problems(good.replace("datasets:\n", f"datasets:\n  {key}: {{type: BundledPhotos, split: val}}\n"))
    assert "expected the name of a file or folder, got " in found


@pytest.mark.parametrize("suffix", ["../x", "a/b", "a\\b", "x" * 200])
def test_the_suffix_of_images_must_be_the_end_of_a_name(problems, good, suffix):
    (found,) = problems(good, overrides=[f"val.suffix='{suffix}'"])
    assert "val.suffix: expected the end of a file name, got " in found


def test_results_of_two_sets_need_different_names(problems, good):
    def sets(kinds):
        lines = "".join(f"  {key}: {{name: {name}, type: BundledPhotos, split: val}}\n" for key, name in kinds.items())
        return good.replace("  train:\n    type", f"{lines}  train:\n    type")

    assert problems(sets({"val_1": "a", "val_2": "a", "test": "a"})) == [
        "x.yml:6: datasets.val_2.name: Expected a name that no other data set has, got 'a', as in datasets.val_1."
    ]
    assert (
        "datasets.test_b: Expected a name"
        in problems(sets({"test": "test_b", "test_b": "x"}).replace("name: x, ", ""))[0]
    )


def test_a_number_is_not_an_empty_section(problems):
    text = "name: x\nmodel_type: RestorationModel\nnetwork_g: {type: UNet}\n"
    text += "datasets: {val: {type: BundledPhotos, split: val}}\n"
    assert problems(f"{text}train: 0\n") == ["x.yml:5: train: expected a section (indented lines 'key: value'), got 0."]
