"""The trainings of a table: options, progress, and what is missing."""

from pathlib import Path

import pytest

from mcir.data.manifest import read_manifest
from mcir.tables import plan as module
from mcir.tables.commands import PaperTable
from mcir.tables.datasets import how_to_get, missing_paths, sets_to_evaluate
from mcir.tables.plan import plan, train
from mcir.tables.published import read_table
from mcir.weights import WeightsError

ROOT = Path(__file__).parents[2] / "options"


def touch(file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).touch()


def test_row_patterns_also_select_the_reference_rows(home, table):
    for patterns, rows in (("*", 2), ("*spn", 2), ("plain", 1)):
        assert [run.row.name for run in plan(table, PaperTable(row=[patterns]))] == ["plain", "plain + SPN"][:rows]
    with pytest.raises(ValueError, match=r"no row of table_tiny matches 'x\*'. Its rows are 'plain', 'plain \+ SPN'"):
        plan(table, PaperTable(row=["plain", "x*"]))
    with pytest.raises(ValueError, match="--options: there is no folder nowhere"):
        plan(table, PaperTable(options=Path("nowhere")))


def test_overrides_and_variants_reach_the_options(home, table):
    run = plan(table, PaperTable(set=["train.total_iter=7"], results=Path("out")))[1]
    assert (run.job.total, run.options.name) == (7, "spn_steps_1")
    assert run.options.train.model.negatives.steps == (1,)
    assert run.options.path.results_root == "out"


def test_the_state_of_a_training(home, table):
    run = plan(table, PaperTable())[0]
    assert run.state() == "not trained" and run.to_evaluate() is None
    touch("experiments/plain/models/net_g_best.pth")
    touch("experiments/plain/models/net_g_1.pth")
    assert run.state() == "trained to iteration 1 of 2" and run.checkpoint() is None
    touch("experiments/plain/models/net_g_2.pth")
    assert run.checkpoint() == Path("experiments/plain/models/net_g_2.pth") and run.missing_for_evaluation() == []
    best = plan(table, PaperTable(checkpoint="best"))[0]
    assert best.checkpoint() == Path("experiments/plain/models/net_g_best.pth")


def test_published_weights_are_used_until_there_is_a_training(home, table):
    run = plan(table, PaperTable())[0]
    text = "\n".join(run.missing_for_evaluation())
    for part in ("no checkpoint experiments/plain/models/net_g_2.pth", "pretrained/plain.pth", "options/README.md"):
        assert part in text
    assert "mcir train -opt options/sr/plain.yml --auto_resume" in text
    touch("pretrained/plain.pth")
    assert run.to_evaluate() == (run.published, Path("pretrained/plain.pth"))
    assert run.state() == "published weights: pretrained/plain.pth" and run.missing_for_evaluation() == []
    touch("experiments/plain/models/net_g_2.pth")
    assert run.to_evaluate()[0] is run.options


def test_an_invalid_option_file_is_reported_for_its_row(home, table):
    run = plan(table, PaperTable(set=["network_g.num_feats=3"]))[0]
    assert run.options is None and "Did you mean 'num_feat'?" in run.missing_for_evaluation()[0]
    assert run.state() == "its option file is not valid"


def test_an_override_of_a_section_that_a_row_does_not_have_is_ignored(home, table):
    override = "train.contrastive_opt.loss_weight=0.5"
    plain, spn = plan(table, PaperTable(set=[override, "train.total_iter=7"]))
    assert plain.options is not None and plain.ignored == [override] and plain.job.total == 7
    assert override not in plain.arguments() and override in spn.arguments()
    assert spn.ignored == [] and spn.options.train.model.contrastive_opt.loss_weight == 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.contrastiv_opt.loss_weight=0.5"],
        ["train.contrastive_opt.los_weight=0.5"],
        ["train.contrastive_opt.type=SPNLoss", "train.contrastive_opt.weights=random"],  # creates the section
    ],
)
def test_an_override_with_a_typo_is_an_error(home, table, overrides):
    runs = plan(table, PaperTable(set=overrides))
    assert any(run.options is None and run.problem for run in runs)
    if "type" in overrides[0]:
        assert all(run.ignored == [] for run in runs)


def test_missing_feature_weights_are_reported_and_downloaded_before_training(home, table, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(home / "hub"))
    settings = PaperTable(row=["*SPN"], train=True, set=["train.contrastive_opt.weights=imagenet"])
    plain, spn = plan(table, settings)
    assert [plain.feature_networks(), spn.feature_networks()] == [[], ["vgg16"]]
    text = "\n".join(spn.missing_for_evaluation())
    assert f"{home}/hub/checkpoints/vgg16-397923af.pth" in text and "download.pytorch.org/models/vgg16-397923af" in text
    touch(home / "hub/checkpoints/vgg16-397923af.pth")
    assert "vgg16" not in "\n".join(spn.missing_for_evaluation())
    of_table5 = plan(read_table("table5"), PaperTable(options=ROOT, row=["FFANet + CR"]))
    assert of_table5[1].feature_networks() == ["vgg19"]  # the default of its loss
    (run,) = plan(table, PaperTable(row=["*SPN"], set=["train.contrastive_opt.weights=vgg.pth"]))[1:]
    assert run.missing_weights() == ["vgg.pth"]

    def fail(network):
        raise WeightsError(f"The ImageNet weights of {network} cannot be downloaded.")

    monkeypatch.setattr(module, "imagenet_file", fail)
    monkeypatch.setattr(module, "start", lambda jobs, options, log: pytest.fail("trained") if jobs else [])
    lines = []
    assert train([spn], settings, lines.append) is False
    assert lines == ["plain + SPN: cannot be trained. The ImageNet weights of vgg16 cannot be downloaded."]


# -- data -------------------------------------------------------------------------------------------------------------


def test_manifests_describe_missing_data(home):
    runs = plan(read_table("table5"), PaperTable(options=ROOT))
    ccr = next(run for run in runs if run.row.name == "FFANet + CCR")
    paths = missing_paths([*ccr.training_sets(), *sets_to_evaluate(ccr.options).values()])
    assert paths[:2] == ["datasets/RESIDE-IN/train/GT", "datasets/RESIDE-IN/train/hazy"]
    assert "datasets/RESIDE-IN/train/negatives/DCP" in paths
    assert len(set(paths)) == len(paths)
    text = "\n".join(how_to_get({path: ["FFANet + CCR"] for path in paths}))
    manifest = read_manifest("reside-in")
    assert f"{manifest.title} belongs in datasets/RESIDE-IN" in text
    for rule in manifest.folders:
        if f"datasets/RESIDE-IN/{rule.path}" in paths:
            assert f"datasets/RESIDE-IN/{rule.path}: {rule.content}, {rule.images:,} images" in text
    assert "negatives/DCP: not part of the published data set; see the option file" in text
    assert manifest.source.strip() in text and "mcir prepare verify reside-in datasets/RESIDE-IN" in text
    (home / "datasets/RESIDE-IN/train/GT").mkdir(parents=True)
    assert missing_paths(ccr.training_sets())[0] == "datasets/RESIDE-IN/train/hazy"


def test_missing_data_are_listed_with_preparation_and_rows():
    paths = ["datasets/Set5/LR_bicubic/X4", "somewhere/else"]
    lines = how_to_get({paths[0]: ["EDSR", "SwinIR", "EDSR"], paths[1]: ["IDT"]})
    assert lines[0] == "somewhere/else is missing; no manifest describes it. Needed by: IDT."
    assert "    needed by: EDSR, SwinIR" in lines and any("mcir prepare lr Set5/HR" in line for line in lines)
