"""Tests of the manifests, and of the page that is rendered from them."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mcir.data import manifest as manifest_module
from mcir.data.errors import DataError
from mcir.data.manifest import HOME, Manifest, known_manifests, read_manifest
from mcir.data.pairing import PairRules, examine_pairs
from mcir.data.prepare import _starts
from mcir.data.storage import Memory
from tests.data.images import noise

DATASETS = Path(__file__).parents[2] / "datasets"
OF_PAPER = [
    "div2k",
    "set5",
    "set14",
    "b100",
    "urban100",
    "manga109",
    "its",
    "reside-in",
    "reside-6k",
    "sots-indoor",
    "sots-outdoor",
    "sots-mix",
    "reside-out",
    "gopro",
    "rain200l",
    "rain200h",
    "did",
    "ddn",
    "spa",
    "sidd",
]

OF_NOISE = ["mit", "stanford-taskonomy", "voc2012"]
ALL = OF_PAPER + OF_NOISE


def test_every_data_set_of_the_papers_has_a_manifest():
    assert known_manifests() == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_manifests_are_consistent(name):
    manifest = read_manifest(name)
    assert manifest.name == name
    assert manifest.pairs or manifest.task == "learning from noise"
    for rule in manifest.folders:
        assert not rule.path.startswith("/") and ".." not in rule.path
        assert rule.images or name in OF_NOISE, "the count is missing"
    counts = {rule.path: rule.images for rule in manifest.folders}
    for pair in manifest.pairs:
        many = any("*" in template for template in pair.filename_tmpl)
        if counts[pair.gt] and (pair.per_gt or not many):
            assert counts[pair.lq] == counts[pair.gt] * (pair.per_gt or 1)
        for template in pair.filename_tmpl:
            PairRules(filename_tmpl=template)


@pytest.mark.parametrize("name", ALL)
def test_no_key_is_duplicated(name):
    """PyYAML silently uses the last of two equal keys."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    assert yaml.load((HOME / f"{name}.yml").read_text(encoding="utf-8"), Loader)


@pytest.mark.parametrize("name", ALL)
def test_statements_from_general_knowledge_are_marked(name):
    """A manifest lists numbers that do not come from a copy, a sample or code as unverified."""
    manifest = read_manifest(name)
    recalled = [rule for rule in manifest.folders if rule.evidence != "copy"]
    counts_only = all(not rule.sizes and not rule.names and not rule.longest_side for rule in manifest.folders)
    assert not recalled or manifest.unverified or counts_only


def test_names_may_be_written_differently():
    assert read_manifest("RESIDE-6K") == read_manifest("reside_6k") == read_manifest("reside 6k")
    with pytest.raises(DataError, match=r"no data set 'rain200'.*Did you mean 'rain200.'.*Known names: b100, ddn"):
        read_manifest("rain200")


def test_missing_and_invalid_manifests_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_module, "HOME", tmp_path)
    with pytest.raises(DataError, match="installed without them"):
        read_manifest("gopro")
    (tmp_path / "gopro.yml").write_text("name: [")
    with pytest.raises(DataError, match=r"gopro\.yml"):
        read_manifest("gopro")
    (tmp_path / "gopro.yml").write_text("name: gopro\n")
    with pytest.raises(DataError, match=r"gopro\.yml(.|\n)*title"):
        read_manifest("gopro")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": 1}, "nmae"),
        ({"task": "denoise"}, "task"),
        ({"folders": []}, "folders"),
        ({"folders": [{"path": "a", "content": "x", "images": "5"}]}, "images"),
        ({"folders": [{"path": "a", "content": "x", "images": 0}]}, "images"),
        ({"folders": [{"path": "a", "content": "x", "names": "("}]}, "expected a regular expression"),
        ({"folders": [{"path": "a", "content": "x", "sizes": {"*": ["620×460"]}}]}, "sizes"),
        ({"folders": [{"path": "a", "content": "x", "evidence": "hearsay"}]}, "evidence"),
        ({"folders": [{"path": "a", "content": "x"}, {"path": "a", "content": "y"}]}, "listed twice"),
        ({"pairs": [{"gt": "gt", "lq": "hazy"}]}, r"a folder of the pair gt \+ hazy is not listed"),
        ({"pairs": [{"gt": "gt", "lq": "lq", "per_gt": 10}]}, r"no '\*'"),
        ({"pairs": [{"gt": "gt", "lq": "lq", "scale": 0}]}, "scale"),
        ({"pairs": [{"gt": "gt", "lq": "lq", "gt_crop": "left"}]}, "gt_crop"),
    ],
)
def test_invalid_manifests_are_rejected(change, message):
    text = {"url": "https://example.org"} | dict.fromkeys(
        ("name", "title", "root", "what", "source", "terms", "version"), "x"
    )
    folders = [{"path": "gt", "content": "x"}, {"path": "lq", "content": "x"}]
    good = {**text, "task": "dehazing", "folders": folders, "pairs": [{"gt": "gt", "lq": "lq"}]}
    Manifest.model_validate(good)
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate({**good, **change})


# -- consistent numbers -----------------------------------------------------------------------------------------------


def rules(name):
    return {rule.path: rule for rule in read_manifest(name).folders}


def test_the_number_of_gopro_crops_fits_the_command():
    of_a_frame = len(_starts(1280, 512, 256, 0)) * len(_starts(720, 512, 256, 0))
    gopro = rules("gopro")
    assert gopro["sharp_crops.lmdb"].images == gopro["train/sharp"].images * of_a_frame == 2103 * 8
    assert re.fullmatch(gopro["sharp_crops.lmdb"].names, f"GOPR0372_07_00/000047_s{of_a_frame:03d}.png")
    assert "--size 512 --step 256" in read_manifest("gopro").prepare


def test_the_small_views_of_stanford_have_half_the_size():
    sizes = {path: rule.sizes["*"] for path, rule in rules("stanford-taskonomy").items()}
    assert sizes == {"HR": ["1024x1024"], "LR": ["512x512"]}


def test_sub_images_of_div2k_have_matching_sizes():
    sizes = {path: int(rule.sizes["*"][0].split("x")[0]) for path, rule in rules("div2k").items() if rule.sizes}
    for pair in read_manifest("div2k").pairs[:2]:
        assert sizes[pair.gt] == pair.scale * sizes[pair.lq]


# -- file names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gt", "lq"),
    [
        ("its", "1399.png", "1399_8_0.74031.png"),
        ("sots-indoor", "1400.png", "1400_10.png"),
        ("sots-outdoor", "0001.png", "0001_0.8_0.2.jpg"),
        ("reside-in", "1_1.png", "1_1.png"),
        ("ddn", "901.jpg", "901_14.jpg"),
        ("rain200l", "norain-1.png", "norain-1x2.png"),
        ("set5", "baby.png", "babyx2.png"),
        ("gopro", "GOPR0384_11_00/000001_s008.png", "GOPR0384_11_00/000001_s008.png"),
        ("sidd", "0001_010_s001.png", "0001_010_s001.png"),
        ("stanford-taskonomy", "area_1/point_0_view_12.png", "area_1/point_0_view_12.png"),
    ],
)
def test_known_file_names_are_matched(name, gt, lq):
    pair = read_manifest(name).pairs[0]
    for path, key in ((pair.gt, gt), (pair.lq, lq)):
        assert rules(name)[path].names is None or re.fullmatch(rules(name)[path].names, key)
    sides = Memory({gt: noise(8 * pair.scale, 8 * pair.scale)}), Memory({lq: noise(8, 8)})
    results = [
        examine_pairs(*sides, PairRules(scale=pair.scale, filename_tmpl=template)) for template in pair.filename_tmpl
    ]
    assert any(not problems and len(checked.pairs) == 1 for checked, problems in results)


# -- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("render", DATASETS / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(render):
    """If this fails, run ``python datasets/render.py``."""
    page = (DATASETS / "README.md").read_text(encoding="utf-8")
    assert page.count(render.MARK) == 1
    assert render.rendered(page) == page
    for name in known_manifests():
        assert f"mcir prepare verify {name} datasets/" in page


def test_a_section_of_the_page(render):
    section = render.as_markdown(read_manifest("its"))
    assert section.startswith("### ITS (RESIDE") and "`mcir prepare verify its datasets/ITS`\n" in section
    assert "| `hazy` | hazy images | 13,990 | 620×460 | measured on some images" in section
    assert "`filename_tmpl: '{}_*'`; 10 degraded images per ground truth; `gt_crop: center`." in section
    div2k = render.as_markdown(read_manifest("div2k"))
    assert "(optional) | 800 | longest side 2040 |" in div2k and "equal names; scale 2." in div2k
    assert "one for each image, see the manifest" in render.as_markdown(read_manifest("set5"))


def test_option_files_use_the_folders_of_the_manifests():
    known = {f"datasets/{each.root}/{rule.path}" for each in map(read_manifest, ALL) for rule in each.folders}
    read = set()
    for file in (DATASETS.parent / "options").rglob("*.yml"):
        read |= set(re.findall(r"^\s*dataroot\w*:\s*(datasets/\S+)", file.read_text(encoding="utf-8"), re.MULTILINE))
    assert read and not read - known
