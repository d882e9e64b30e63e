"""The plan of a table: which trainings there are, how far they are, and what exactly is missing."""

from pathlib import Path

import pytest

from mcir.data.manifest import read_manifest
from mcir.tables.paper import read_table
from mcir.tables.plan import Settings, how_to_get, missing_paths, plan

ROOT = Path(__file__).parents[2] / "options"


def touch(file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).touch()


def test_rows_are_planned_with_what_they_are_compared_with(home, table):
    assert [job.row.name for job in plan(table, Settings())] == ["plain", "plain + SPN"]
    assert [job.row.name for job in plan(table, Settings(rows=["*spn"]))] == ["plain", "plain + SPN"]
    assert [job.row.name for job in plan(table, Settings(rows=["plain"]))] == ["plain"]
    with pytest.raises(ValueError, match=r"No row of table_tiny fits 'x\*'. Its rows are 'plain', 'plain \+ SPN'"):
        plan(table, Settings(rows=["plain", "x*"]))
    with pytest.raises(ValueError, match="no folder nowhere with the option files"):
        plan(table, Settings(options=Path("nowhere")))


def test_overrides_and_variants_reach_the_options(home, table):
    job = plan(table, Settings(overrides=["train.total_iter=7"], results=Path("out")))[1]
    assert (job.total, job.options.name) == (7, "spn_steps_1")
    assert job.options.train.model.negatives.steps == (1,)
    assert job.options.path.results_root == "out"


def test_how_far_a_training_is(home, table):
    job = plan(table, Settings())[0]
    assert job.state() == "not trained" and job.to_evaluate() is None
    touch("experiments/plain/models/net_g_best.pth")
    assert job.state() == "not trained"
    touch("experiments/plain/models/net_g_1.pth")
    assert job.state() == "trained to iteration 1 of 2" and job.trained() is None
    touch("experiments/plain/models/net_g_2.pth")
    assert job.trained() == Path("experiments/plain/models/net_g_2.pth")
    assert plan(table, Settings(checkpoint="best"))[0].trained() == Path("experiments/plain/models/net_g_best.pth")
    assert job.to_get() == []


def test_published_weights_stand_in_until_there_are_own(home, table):
    job = plan(table, Settings())[0]
    told = "\n".join(job.to_get())
    for part in ("no checkpoint experiments/plain/models/net_g_2.pth", "pretrained/plain.pth", "options/README.md"):
        assert part in told
    assert "mcir train -opt options/sr/plain.yml --auto_resume" in told
    touch("pretrained/plain.pth")
    assert job.to_evaluate() == (job.published, Path("pretrained/plain.pth"))
    assert job.state() == "published weights: pretrained/plain.pth" and job.to_get() == []
    touch("experiments/plain/models/net_g_2.pth")
    assert job.to_evaluate()[0] is job.options


def test_the_command_chooses_the_run(home, table):
    assert "--set sweep=steps_1 " in "\n".join(plan(table, Settings())[1].to_get())


def test_a_file_that_cannot_be_used_says_why(home, table):
    job = plan(table, Settings(overrides=["network_g.num_feats=3"]))[0]
    assert job.options is None and "Did you mean 'num_feat'?" in job.to_get()[0]
    assert job.state() == "its option file cannot be used"


def test_missing_data_is_told_exactly(home):
    jobs = plan(read_table("table5"), Settings(options=ROOT))
    fog = next(job for job in jobs if job.row.name == "FFANet + CCR")
    paths = missing_paths([*fog.training_sections(), *fog.evaluation_sections()])
    assert paths[:2] == ["datasets/RESIDE-IN/train/GT", "datasets/RESIDE-IN/train/hazy"]
    assert "datasets/RESIDE-IN/train/negatives/DCP" in paths
    assert len(set(paths)) == len(paths)
    told = "\n".join(how_to_get(paths))
    manifest = read_manifest("reside-in")
    assert f"{manifest.title} belongs in datasets/RESIDE-IN" in told
    for rule in manifest.folders:
        if f"datasets/RESIDE-IN/{rule.path}" in paths:
            assert f"datasets/RESIDE-IN/{rule.path}: {rule.holds}, {rule.images:,} images" in told
    assert "negatives/DCP: not part of the set as it is given out; the option file says" in told
    assert manifest.source.strip() in told and "mcir prepare verify reside-in datasets/RESIDE-IN" in told
    (home / "datasets/RESIDE-IN/train/GT").mkdir(parents=True)
    assert missing_paths(fog.training_sections())[0] == "datasets/RESIDE-IN/train/hazy"


def test_how_a_missing_part_is_prepared_is_told():
    told = how_to_get(["datasets/Set5/LR_bicubic/X4", "somewhere/else"])
    assert told[0] == "somewhere/else is missing; no manifest tells of it."
    assert any("mcir prepare lr Set5/HR" in line for line in told)


def test_who_needs_what_is_missing():
    lists = ["datasets/Set5/LR_bicubic/X4", "somewhere/else"]
    told = how_to_get(lists, {lists[0]: ["EDSR", "SwinIR", "EDSR"], lists[1]: ["IDT"]})
    assert told[0] == "somewhere/else is missing; no manifest tells of it. For: IDT."
    assert "    for: EDSR, SwinIR" in told and "for:" not in "".join(how_to_get(lists))


def test_an_override_about_a_section_is_left_out_where_there_is_none(home, table):
    about_negatives = "train.contrastive_opt.loss_weight=0.5"
    plain, pushed = plan(table, Settings(overrides=[about_negatives, "train.total_iter=7"]))
    assert plain.options is not None and plain.left_out == [about_negatives] and plain.total == 7
    assert about_negatives not in plain.arguments() and about_negatives in pushed.arguments()
    assert pushed.left_out == [] and pushed.options.train.model.contrastive_opt.loss_weight == 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.contrastiv_opt.loss_weight=0.5"],  # no row has it
        ["train.contrastive_opt.los_weight=0.5"],
        ["train.contrastive_opt.type=SPNLoss", "train.contrastive_opt.weights=random"],  # it is made here
    ],
)
def test_a_misspelt_override_is_left_out_nowhere(home, table, overrides):
    jobs = plan(table, Settings(overrides=overrides))
    assert any(job.options is None and job.problem for job in jobs)
    if "type" in overrides[0]:
        assert all(job.left_out == [] for job in jobs)


def test_the_features_that_a_training_reads_are_among_what_is_missing(home, table, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(home / "hub"))
    jobs = plan(table, Settings(overrides=["train.contrastive_opt.weights=imagenet"]))
    assert [job.feature_networks() for job in jobs] == [[], ["vgg16"]]
    told = "\n".join(jobs[1].to_get())
    assert f"{home}/hub/checkpoints/vgg16-397923af.pth is not here" in told
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in told
    touch(home / "hub/checkpoints/vgg16-397923af.pth")
    assert "vgg16" not in "\n".join(jobs[1].to_get())
    of_table5 = plan(read_table("table5"), Settings(options=ROOT, rows=["FFANet + CR"]))
    assert of_table5[1].feature_networks() == ["vgg19"]  # the default of its loss
    (job,) = plan(table, Settings(rows=["*SPN"], overrides=["train.contrastive_opt.weights=features"]))[1:]
    assert job.missing_weights() == ["features"]


def test_what_the_command_does_next_is_told_of_what_is_there(home, table):
    job = plan(table, Settings())[0]
    assert job.to_go_on() == "it has no checkpoint yet: the same command begins anew"
    touch("experiments/plain/models/net_g_1.pth")
    assert job.to_go_on() == "the same command goes on from its checkpoint of iteration 1"
