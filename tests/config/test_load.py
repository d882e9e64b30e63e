import os
import sys
from pathlib import Path

import pytest

from mcir.config import NotImportedError, OptionError, load, network_section
from mcir.registry import ARCHS

OPTIONS = Path(__file__).parents[2] / "options"


# -- _base_ -----------------------------------------------------------------------------------------------------------


def test_bases_are_merged_in_order_and_overridden_by_the_file(write, good):
    write(good, "base/all.yml")
    write("scale: 3\nlogger: {print_freq: 7, keep_checkpoints: 2}\n", "base/log.yml")
    options = load(write("_base_: [base/all.yml, base/log.yml]\nscale: 4\nlogger: {print_freq: 9}\n"))
    assert options.scale == 4
    assert (options.logger.print_freq, options.logger.keep_checkpoints) == (9, 2)
    assert options.train.total_iter == 5000


def test_bases_of_bases_are_relative_to_their_own_file(write, good):
    write(good, "a/b/deep.yml")
    write("_base_: b/deep.yml\nscale: 3\n", "a/middle.yml")
    assert load(write("_base_: a/middle.yml\nname: top\n")).scale == 3


def test_a_base_may_be_used_twice(write, good):
    write(good, "root.yml")
    write("_base_: root.yml\nscale: 3\n", "left.yml")
    write("_base_: root.yml\nmanual_seed: 5\n", "right.yml")
    options = load(write("_base_: [left.yml, right.yml]\n"))
    assert options.manual_seed == 5


def test_null_removes_a_section_and_another_type_replaces_it(write, good):
    write(good, "base.yml")
    options = load(write("_base_: base.yml\ntrain: {scheduler: ~, optim_g: {type: SGD, lr: 1e-2}}\nval: ~\n"))
    assert options.train.model.scheduler is None
    assert options.train.model.optim_g == {"type": "SGD", "lr": 0.01}
    assert options.val.metrics == {}


def test_a_mapping_argument_is_replaced_as_a_whole(problems, write, good):
    write(good.replace("{type: SPNLoss}", "{type: SPNLoss, loss_weight: 2, layer_weights: {relu1_2: 1}}"), "base.yml")
    above = "_base_: base.yml\ntrain:\n  contrastive_opt:\n    layer_weights:\n      relu2_2: {}\n"
    loss = load(write(above.format(0.5))).train.model.contrastive_opt
    assert loss == {"type": "SPNLoss", "loss_weight": 2.0, "layer_weights": {"relu2_2": 0.5}}
    assert problems(above.format("much")) == [
        "x.yml:5: train.contrastive_opt.layer_weights.relu2_2: expected a finite number ≥ 0, got 'much'."
    ]


BASELINE = ["model_type=RestorationModel", "train.contrastive_opt=null", "train.negatives=null", "train.balance=null"]


@pytest.mark.parametrize(
    "name",
    ["sr/edsr_light_x4_spn", "dehaze/ffanet_its_released_spn", "derain/idt_did_spn", "deblur/nafnet_gopro_w32_spn"],
)
def test_an_spn_file_without_negatives_is_the_plain_file(name):
    file = OPTIONS / f"{name}.yml"
    plain = load(file.with_name(file.name.replace("_spn", "")))
    assert load(file, [*BASELINE, f"name={plain.name}"]).dump() == plain.dump()


def test_a_null_argument_is_ignored_if_another_class_has_it(problems, write, good):
    load(write(good), BASELINE[:3])
    assert problems(good, overrides=[*BASELINE[:3], "train.contrastve_opt=null", "train.balance=1"]) == [
        "--set train.balance=1: train.balance: RestorationModel has no argument 'balance'.",
        "--set train.contrastve_opt=null: train.contrastve_opt: RestorationModel has no argument 'contrastve_opt'.",
    ]
    (found,) = problems(good, overrides=["network_g.num_feats=null"])
    assert found.endswith("EDSR has no argument 'num_feats'. Did you mean 'num_feat'?")
    (found,) = problems(good, overrides=["network_g=null"])
    assert found == ("--set network_g=null: network_g: expected the section of an architecture, {type: …}, got null.")


def test_a_problem_names_the_file_that_contains_it(problems, write, good):
    write(good.replace("num_in_ch: 3", "num_in_chs: 3"), "bases/b.yml")
    assert problems("_base_: bases/b.yml\nscale: two\n") == [
        "bases/b.yml:11: network_g.num_in_chs: EDSR has no argument 'num_in_chs'. Did you mean 'num_in_ch'?",
        "x.yml:2: scale: expected an integer from 1 to 64, got 'two'.",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("_base_: x.yml\n", "x.yml:1: _base_: The file is its own base: x.yml -> x.yml."),
        ("_base_: y.yml\n", "y.yml:2: _base_: The file is its own base: x.yml -> y.yml -> x.yml."),
        ("_base_: {a: b}\n", "x.yml:1: _base_: expected the name of an option file, or a list of names."),
        ("a: 1\n_base_:\n- y.ymll\n", "x.yml:3: _base_: 'y.ymll': The file does not exist. Did you mean 'y.yml'?"),
        ("_base_: bad.yml\n", "bad.yml:2: Duplicate key 'a', first in line 1."),
    ],
)
def test_invalid_bases(problems, write, text, message):
    write("scale: 2\n_base_: [x.yml]\n", "y.yml")
    write("a: 1\na: 2\n", "bad.yml")
    assert problems(text) == [message]


def test_all_missing_bases_are_reported(problems):
    assert len(problems("_base_: [one.yml, two.yml]\n")) == 2


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("train.optim_g.lr=5e-5", lambda o: o.train.model.optim_g.lr, 5e-5),
        ("train.total_iter=1e2", lambda o: o.train.total_iter, 100),
        ("datasets.train.batch_size_per_gpu=2", lambda o: o.datasets.train.batch_size_per_gpu, 2),
        ("train.optim_g.betas=[0.5, 0.6]", lambda o: o.train.model.optim_g.betas, (0.5, 0.6)),
        ("train.scheduler.milestones.1=4e3", lambda o: o.train.model.scheduler.milestones, (2000, 4000)),
        ("train.scheduler={type: CosineAnnealingLR, T_max: 9}", lambda o: o.train.model.scheduler.T_max, 9),
        ("train.scheduler=~", lambda o: o.train.model.scheduler, None),
        ("train.scheduler=", lambda o: o.train.model.scheduler, None),
        ("num_gpu=2.0", lambda o: o.num_gpu, 2),
        ("num_gpu=0", lambda o: o.num_gpu, 0),
        ("logger.use_tb_logger=off", lambda o: o.logger.use_tb_logger, False),
        ("val.suffix=a=b", lambda o: o.val.suffix, "a=b"),
        ("name='007'", lambda o: o.name, "007"),
        ("name=no", lambda o: o.name, "no"),
        ("path.pretrain_network_g=/a:b.pth", lambda o: o.path.pretrain_network_g, "/a:b.pth"),
    ],
)
def test_overrides_have_the_types_of_yaml(write, good, override, get, value):
    key, _, text = override.partition("=")
    for options in (
        load(write(good), [override]),
        load(write(good), force_yml=[f"{key.replace('.', ':')}={text}"]),
    ):
        assert get(options) == value
        assert type(get(options)) is type(value)


def test_the_last_override_wins(write, good):
    options = load(write(good), ["scale=3", "scale=4"], force_yml=["scale=5"])
    assert options.scale == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scale", "--set scale: expected 'key.key=value', like 'train.total_iter=1000'."),
        ("=3", "--set =3: expected 'key.key=value', like 'train.total_iter=1000'."),
        ("a..b=3", "--set a..b=3: expected 'key.key=value', like 'train.total_iter=1000'."),
        ("scale.x=3", "--set scale.x=3: scale: expected a section or a list, got a single value."),
        ("train.scheduler.milestones.2=3", "--set train.scheduler.milestones.2=3: train.scheduler.milestones: "
         "expected an index between 0 and 1 of this list, got '2'."),
        ("train.scheduler.milestones.last=3", "--set train.scheduler.milestones.last=3: train.scheduler.milestones: "
         "expected an index between 0 and 1 of this list, got 'last'."),
        ("scale=[1", "--set scale=[1: Invalid YAML: expected ',' or ']', but got '<stream end>'. A bracket is not "
         "closed, or a comma is missing."),
        ("scale=two", "--set scale=two: scale: expected an integer from 1 to 64, got 'two'."),
        ("network_g.num_feats=3", "--set network_g.num_feats=3: network_g.num_feats: EDSR has no argument "
         "'num_feats'. Did you mean 'num_feat'?"),
        ("loger.print_freq=3", "--set loger.print_freq=3: loger: There is no option 'loger'. Did you mean 'logger'?"),
        ("name=__import__('os').getcwd()", None),
    ],
)  # fmt: skip
def test_invalid_overrides(problems, write, good, override, message):
    if message is None:
        assert load(write(good), [override]).name == "__import__('os').getcwd()"  # text, never code
    else:
        assert problems(good, overrides=[override]) == [message]


# -- imports ----------------------------------------------------------------------------------------------------------


def test_imports_register_components_of_the_current_folder(write, good, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(ARCHS, "_classes", dict(ARCHS._classes))
    write(
        "from torch import nn\nfrom mcir.registry import ARCHS\n"
        "@ARCHS.register()\nclass Thrown(nn.Module):\n"
        "    def __init__(self, width: int = 3):\n        super().__init__()\n",
        "thrown_pkg_a/arch.py",
    )
    text = "imports: thrown_pkg_a.arch\n" + good.replace(
        "{type: EDSR, num_in_ch: 3, num_out_ch: 3, upscale: 2}", "{type: Thrown}"
    )
    options = load(write(text))
    assert options.imports == ("thrown_pkg_a.arch",)
    assert options.network_g.type == "Thrown"
    with pytest.raises(
        OptionError, match=r"x.yml:12: network_g.widht: Thrown has no argument 'widht'. Did you mean 'width'"
    ):
        load(write(text.replace("Thrown}", "Thrown, widht: 3}")))


def test_a_failed_import_names_module_file_and_line(problems, write, good, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    write("x = 1\nraise RuntimeError('no GPU')\n", "thrown_b.py")
    write("import numpy.nothing_there\n", "thrown_c.py")
    first, second, third = problems(good + "imports:\n- thrown_b\n- thrown_d.arch\n- thrown_c\n")
    assert first.startswith("x.yml:21: imports.0: Importing thrown_b failed: RuntimeError: no GPU (")
    assert first.endswith("thrown_b.py:2)")
    assert second == (
        "x.yml:22: imports.1: Importing thrown_d.arch failed: ModuleNotFoundError: No module named 'thrown_d'. "
        "Install the package, or run the command in its parent folder."
    )
    assert "numpy.nothing_there" in third
    assert third.endswith("thrown_c.py:1)")


# -- the network alone ------------------------------------------------------------------------------------------------


def test_network_section_ignores_the_rest_of_the_file(write, good, caplog):
    section = {"type": "EDSR", "upscale": 4, "num_feat": 8}
    write("network_g: {type: EDSR, upscale: 4, num_feat: 64}\n", "base.yml")
    for text in (
        "network_g: {type: EDSR, upscale: 4, num_feat: 8}\n",
        "_base_: base.yml\nnetwork_g: {num_feat: 8}\nmodel_type: SRModel\nno_such_key: 1\n",
        "sweep: {train.total_iter: [1, 2]}\nnetwork_g: {type: EDSR, upscale: 4, num_feat: 8}\n",
    ):
        assert dict(network_section(write(text))) == section
    assert network_section(write(good)) == load("x.yml").network_g
    assert not caplog.messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\n", r"The file requires 'network_g', the section of an architecture"),
        ("network_q: {type: EDSR}\n", "There is no option 'network_q'. Did you mean 'network_g'"),
        ("network_g: {type: EDSR, num_feats: 8}\n", r"x\.yml:1: network_g\.num_feats: .* Did you mean 'num_feat'"),
        ("network_g: EDSR\n", r"Write \{type: EDSR\}"),
        ("sweep: {network_g.num_feat: [1, 2]}\nnetwork_g: {type: EDSR}\n", "have different networks"),
    ],
)
def test_invalid_network_sections(write, text, message):
    with pytest.raises(OptionError, match=message):
        network_section(write(text))


def test_a_file_with_imports_can_be_checked_without_running_them(write, good, tmp_path):
    (tmp_path / "thrown_evil.py").write_text("open('PWNED', 'w')")
    text = (
        good.replace("type: EDSR", "type: MyNet").replace("type: L1Loss", "type: MyLoss") + "imports: [thrown_evil]\n"
    )
    with pytest.raises(NotImportedError) as caught:
        load(write(text), run_imports=False)
    assert not (tmp_path / "PWNED").exists()
    message = "The class is not one of mcir. It may be registered by the imports, which were not run: thrown_evil."
    assert str(caught.value).splitlines() == [
        f"x.yml:11: network_g.type: {message}",
        f"x.yml:16: train.pixel_opt.type: {message}",
    ]
    assert load(write(good + "imports: [thrown_evil]\n"), run_imports=False).imports == ("thrown_evil",)


def test_other_mistakes_remain_mistakes_without_imports(write, good):
    text = good.replace("type: EDSR", "type: MyNet").replace("total_iter: 5e3", "total_iter: x")
    with pytest.raises(OptionError) as caught:
        load(write(text + "imports: thrown_evil\n"), run_imports=False)
    assert not isinstance(caught.value, NotImportedError)
    assert "It may be registered by the imports" in str(caught.value)
    assert "train.total_iter: expected an integer" in str(caught.value)
    with pytest.raises(OptionError) as caught:
        load(write(good.replace("type: EDSR", "type: EDRS")), run_imports=False)  # nothing is imported
    assert not isinstance(caught.value, NotImportedError)
    assert "Did you mean 'EDSR'?" in str(caught.value)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_bases_are_limited(write, good, tmp_path):
    for number in range(30):  # each file has the next one as its base twice
        write(f"_base_: [{number + 1}.yml, {number + 1}.yml]\n", f"{number}.yml")
    write(good, "30.yml")
    with pytest.raises(OptionError, match=r"30.yml:1: _base_: The file has more than 50 bases|has more than 50 bases"):
        load("0.yml")


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("pipe", "'pipe': The file is a named pipe, not a file."),
        ("/dev/zero", "'/dev/zero': The file is a device, not a file."),
        ("folder", "'folder': The file is a folder."),
        ("nothing.yml", "'nothing.yml': The file does not exist."),
        ("x" * 100_000, "'xxx"),
        ('"a\\0b"', "The value contains a control character (U+0000), which no option can use."),
    ],
)
def test_a_base_that_cannot_be_read(write, good, problems, base, problem, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (found,) = problems(f"_base_: {base}\n{good}")
    assert found.startswith("x.yml:1: ")
    assert problem in found
    assert len(found) < 800


def test_the_option_file_itself_may_be_anything(write, tmp_path):
    write("")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "/dev/zero", "x" * 100_000, "a\0b", str(tmp_path), "~nobody/x.yml"):
        with pytest.raises(OptionError) as caught:
            load(name)
        assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    "override",
    ["train.total_iter=" + "9" * 5000, "name=" + "x" * 100_000, ".".join("a" * 5000) + "=1", "name.x=1",
     "a=" + "[" * 5000, "datasets.train.0=1", "name='\\x'", 'name="\\0"', 'name="\\ud800"', 'name="\\UFFFFFFFF"',
     "scale=1e400", "name=\udce9"],
)  # fmt: skip
def test_overrides_are_limited(problems, good, override):
    for found in problems(good, overrides=[override]):
        assert found.startswith("--set ")
        assert len(found) < 1500


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        (
            f"{{scale: [{'1, ' * 101}], manual_seed: [{'1, ' * 101}]}}",
            "expected a grid of at most 10,000 runs, got 10,201.",
        ),
        (f"{{a: {{{'.'.join('a' * 100)}: 1}}}}", "expected at most 50 keys, got 100."),
        ("{a: {name.x: 1}}", "name: expected a section or a list, got a single value."),
        ("{a: {datasets.train.dataroot_gt.0: 1}}", "expected a section or a list, got a single value."),
    ],
)
def test_sweeps_are_limited(problems, good, sweep, problem):
    assert problem in problems(f"{good}sweep: {sweep}\n", overrides=["sweep=a"])[0]
