"""Tests of the data sets of pairs."""

import numpy as np
import pytest
import torch

from mcir.data.errors import DataError
from mcir.data.paired import PairedImageDataset
from mcir.data.prepare import create_lmdb, create_lr
from mcir.data.sampler import SampleIndex
from mcir.data.storage import Memory
from mcir.errors import ArgumentError, ComponentError
from mcir.registry import DATASETS
from tests.data.images import StoredPairs, noise, pairs, save, smooth


def hwc(image):
    return image.permute(1, 2, 0).numpy()


def test_full_pairs_equal_the_files(tmp_path):
    gt, lq, images = pairs(tmp_path, 3)
    dataset = DATASETS.build({"type": "PairedImageDataset", "dataroot_gt": str(gt), "dataroot_lq": str(lq), "scale": 2})
    assert len(dataset) == 3
    for index, (clean, degraded) in enumerate(images):
        item = dataset[index]
        assert np.array_equal(hwc(item["gt"]), clean) and np.array_equal(hwc(item["lq"]), degraded)
        assert item["gt"].dtype == item["lq"].dtype == torch.uint8
        assert item["gt_path"] == str(gt / f"{index:02d}.png") and item["lq_path"] == str(lq / f"{index:02d}.png")


def coordinates(scale, height=20, width=30):
    """Return a pair whose pixel values are their positions (row, column) in the degraded image."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    lq = np.stack([rows, columns, np.zeros_like(rows)], 2)
    return Memory({"a": np.kron(lq, np.ones((scale, scale, 1), np.uint8))}), Memory({"a": lq})


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_crops_and_flips_are_aligned_in_both_images(scale):
    gt, lq = coordinates(scale)
    dataset = StoredPairs(gt, lq, scale=scale, gt_size=8 * scale, use_hflip=True, use_rot=True)
    seen, corners = set(), set()
    for position in range(400):
        item = dataset[SampleIndex(0, position, 1)]
        small, large = hwc(item["lq"]).astype(int), hwc(item["gt"])
        assert small.shape == (8, 8, 3)
        assert np.array_equal(np.kron(small, np.ones((scale, scale, 1), int)), large)
        assert np.array_equal(np.unique(small[:, :, 0]), np.arange(small[:, :, 0].min(), small[:, :, 0].min() + 8))
        seen.add((tuple(np.sign(small[1, 0] - small[0, 0])), tuple(np.sign(small[0, 1] - small[0, 0]))))
        corners.add((small[:, :, 0].min(), small[:, :, 1].min()))
    assert len(seen) == 8
    assert {row for row, _ in corners} == set(range(13)) and {column for _, column in corners} == set(range(23))


def test_only_the_selected_flips_are_used():
    gt, lq = coordinates(1)
    for use_hflip, use_rot, ways in ((False, False, 1), (True, False, 2), (False, True, 4)):
        dataset = StoredPairs(gt, lq, gt_size=8, use_hflip=use_hflip, use_rot=use_rot)
        items = [hwc(dataset[SampleIndex(0, position, 0)]["lq"]).astype(int) for position in range(60)]
        assert len({(*np.sign(i[1, 0] - i[0, 0]), *np.sign(i[0, 1] - i[0, 0])) for i in items}) == ways


def test_an_item_depends_only_on_its_sample_index(tmp_path):
    gt, lq, _ = pairs(tmp_path, 2)
    arguments = {"scale": 2, "gt_size": 16, "use_hflip": True, "use_rot": True}
    one, two = (PairedImageDataset(str(gt), str(lq), **arguments) for _ in range(2))
    items = [one[SampleIndex(1, position, 5)]["gt"] for position in range(30)]
    assert all(torch.equal(two[SampleIndex(1, position, 5)]["gt"], items[position]) for position in reversed(range(30)))
    assert len({item.numpy().tobytes() for item in items}) > 20
    assert torch.equal(one[1]["gt"], two[SampleIndex(1, 1, 0)]["gt"])


def test_images_of_16_bits_become_float(tmp_path):
    gt, lq, images = pairs(tmp_path, 2, dtype=np.uint16)
    save(gt / "01.png", noise(48, 64))  # one 8-bit image
    dataset = PairedImageDataset(str(gt), str(lq), scale=2)
    assert dataset[0]["gt"].dtype == torch.float32
    assert np.array_equal(hwc(dataset[0]["gt"]), images[0][0].astype(np.float32) / np.float32(65535))
    assert dataset[1]["gt"].dtype == torch.float32 and dataset[1]["gt"].max() == 1
    degraded = PairedImageDataset(str(gt), scale=2, gt_size=16, degradation={"type": "BicubicDown"})
    assert degraded[0]["lq"].dtype == degraded[1]["lq"].dtype == torch.float32


def test_gray_and_color(tmp_path):
    gt, lq, images = pairs(tmp_path, 1, channels=1)
    rgb = PairedImageDataset(str(gt), str(lq), scale=2)[0]["gt"]
    assert np.array_equal(hwc(rgb), np.repeat(images[0][0], 3, axis=2))
    assert np.array_equal(hwc(PairedImageDataset(str(gt), str(lq), scale=2, color="gray")[0]["gt"]), images[0][0])
    color = StoredPairs(Memory({"a": noise(8, 8)}), Memory({"a": noise(8, 8)}), color="gray")[0]
    assert color["gt"].shape == color["lq"].shape == (1, 8, 8)


@pytest.mark.parametrize("size", [(48, 60), (49, 62)])
def test_degraded_crops_equal_crops_of_the_full_degraded_image(tmp_path, size):
    image = noise(*size)
    save(tmp_path / "gt" / "a.png", image)
    create_lr(tmp_path / "gt", tmp_path / "lq", 3)
    ready = PairedImageDataset(str(tmp_path / "gt"), str(tmp_path / "lq"), scale=3, gt_size=24, use_rot=True)
    made = PairedImageDataset(
        str(tmp_path / "gt"), scale=3, gt_size=24, use_rot=True, degradation={"type": "BicubicDown"}
    )
    for position in range(200):
        one, two = ready[SampleIndex(0, position, 0)], made[SampleIndex(0, position, 0)]
        assert torch.equal(one["gt"], two["gt"]) and torch.equal(one["lq"], two["lq"])
    full = PairedImageDataset(str(tmp_path / "gt"), scale=3, degradation={"type": "BicubicDown"})[0]
    assert full["gt"].shape == (3, size[0] // 3 * 3, size[1] // 3 * 3)
    assert np.array_equal(hwc(full["gt"]), image[: size[0] // 3 * 3, : size[1] // 3 * 3])
    assert full["lq_path"] == full["gt_path"]


def test_a_chain_with_a_margin_keeps_the_size():
    section = {"type": "Chain", "degradations": [{"type": "BicubicDown"}, {"type": "GaussianNoise", "sigma": 9}]}
    dataset = StoredPairs(Memory({"a": smooth(40, 52)}), degradation=section, scale=2, gt_size=16)
    for position in range(50):
        item = dataset[SampleIndex(0, position, 0)]
        assert item["lq"].shape == (3, 8, 8) and item["lq"].dtype == torch.float32 and item["gt"].dtype == torch.uint8


@pytest.mark.parametrize("codec", ["encoded", "raw"])
def test_databases_give_the_same_samples_as_files(tmp_path, codec):
    gt, lq, _ = pairs(tmp_path, 3)
    for name in ("gt", "lq"):
        create_lmdb(tmp_path / name, tmp_path / f"{name}.lmdb", codec)
    arguments = {"scale": 2, "gt_size": 16, "use_hflip": True, "use_rot": True}
    files = PairedImageDataset(str(gt), str(lq), **arguments)
    base = PairedImageDataset(f"{gt}.lmdb", f"{lq}.lmdb", io_backend={"type": "lmdb"}, **arguments)
    for position in range(40):
        one, two = (dataset[SampleIndex(position % 3, position, 0)] for dataset in (files, base))
        assert torch.equal(one["gt"], two["gt"]) and torch.equal(one["lq"], two["lq"])


def test_meta_info_selects_images(tmp_path):
    gt, lq, images = pairs(tmp_path, 4)
    (tmp_path / "meta.txt").write_text("02.png (48,64,3)\n00.png (48,64,3)\n")
    dataset = PairedImageDataset(str(gt), str(lq), meta_info_file=str(tmp_path / "meta.txt"), scale=2)
    assert len(dataset) == 2
    assert np.array_equal(hwc(dataset[0]["gt"]), images[2][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected either dataroot_lq or degradation, got neither"),
        ({"dataroot_lq": "x", "degradation": {"type": "BicubicDown"}}, "got both"),
        ({"degradation": {"type": "BicubicDown"}, "scale": 0}, "scale: expected an integer from 1 to 64, got 0"),
        (
            {"degradation": {"type": "BicubicDown"}, "scale": 2, "gt_size": 15},
            "gt_size: expected a multiple of the scale, 2, like 14 or 16, got 15",
        ),
        ({"degradation": {"type": "BicubicDown"}, "scale": 2, "gt_size": 0}, "gt_size: .*got 0"),
        ({"degradation": {"type": "BicubicDown"}, "color": "y"}, "color: .*'gray', got 'y'"),
        (
            {"degradation": {"type": "BicubicDown", "scale": 4}, "scale": 2},
            "degradation: expected a degradation of the data set's scale, 2, got BicubicDown of scale 4",
        ),
    ],
)
def test_wrong_or_contradictory_arguments_are_rejected(tmp_path, arguments, message):
    save(tmp_path / "a.png", noise(32, 32))
    with pytest.raises(ArgumentError, match=message):
        PairedImageDataset(str(tmp_path), **arguments)


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no images"):
        PairedImageDataset(str(tmp_path), degradation={"type": "BicubicDown"})


def test_the_name_of_a_pair_is_its_path_in_the_set(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / "gt" / folder / "0.png", smooth(8, 8))
        save(tmp_path / "lq" / folder / "0.png", smooth(8, 8))
    dataset = PairedImageDataset(str(tmp_path / "gt"), str(tmp_path / "lq"))
    assert [dataset.name(index) for index in range(2)] == ["a/0", "b/0"]


# -- several degraded images per ground truth; larger ground truths; small pairs -------------------------------------


@pytest.mark.parametrize("as_database", [False, True])
def test_each_degraded_image_is_an_item(tmp_path, as_database):
    clean = {name: noise(16, 20, seed=name) for name in (901, 902)}
    hazy = {(name, copy): noise(16, 20, seed=10 * name + copy) for name in clean for copy in (1, 2, 14)}
    for name, image in clean.items():
        save(tmp_path / "gt" / f"{name}.png", image)
    for (name, copy), image in hazy.items():
        save(tmp_path / "lq" / f"{name}_{copy}.png", image)
    ending = ""
    if as_database:
        ending = ".lmdb"
        for side in ("gt", "lq"):
            create_lmdb(tmp_path / side, tmp_path / f"{side}.lmdb", "raw")
    dataset = PairedImageDataset(
        f"{tmp_path}/gt{ending}", f"{tmp_path}/lq{ending}", filename_tmpl="{}_*", gt_size=8, use_rot=True
    )
    assert len(dataset) == len(hazy)
    names = [dataset.name(index) for index in range(len(dataset))]
    assert sorted(names) == sorted(f"{name}_{copy}" for name, copy in hazy)
    full = PairedImageDataset(f"{tmp_path}/gt{ending}", f"{tmp_path}/lq{ending}", filename_tmpl="{}_*")
    for index, pair in enumerate(names):
        name, copy = map(int, pair.split("_"))
        item = full[index]
        assert np.array_equal(hwc(item["gt"]), clean[name]) and np.array_equal(hwc(item["lq"]), hazy[name, copy])
        assert item["gt_path"].endswith(f"/{name}.png") and item["lq_path"].endswith(f"/{name}_{copy}.png")


@pytest.mark.parametrize("scale", [1, 2])
def test_the_center_of_a_larger_ground_truth_is_used(scale):
    gt, lq = coordinates(scale)
    wide = np.pad(gt.read("a"), ((3, 3), (5, 5), (0, 0)), constant_values=255)
    arguments = {"scale": scale, "gt_crop": "center"}
    dataset = StoredPairs(Memory({"a": wide}), lq, gt_size=8 * scale, use_hflip=True, use_rot=True, **arguments)
    for position in range(60):
        item = dataset[SampleIndex(0, position, 1)]
        assert np.array_equal(np.kron(hwc(item["lq"]), np.ones((scale, scale, 1), np.uint8)), hwc(item["gt"]))
    assert np.array_equal(hwc(StoredPairs(Memory({"a": wide}), lq, **arguments)[0]["gt"]), gt.read("a"))


@pytest.mark.parametrize(("height", "width"), [(3, 12), (12, 3), (3, 4)])
@pytest.mark.parametrize("scale", [1, 3])
def test_padding_keeps_small_pairs_aligned(height, width, scale):
    gt, lq = coordinates(scale, height, width)
    dataset = StoredPairs(gt, lq, scale=scale, gt_size=8 * scale, use_rot=True, small="pad")
    for position in range(20):
        small, large = (hwc(dataset[SampleIndex(0, position, 0)][side]) for side in ("lq", "gt"))
        assert small.shape == (8, 8, 3)
        assert np.array_equal(np.kron(small, np.ones((scale, scale, 1), np.uint8)), large)
    plain = StoredPairs(gt, lq, scale=scale, gt_size=8 * scale, small="pad")[0]
    image = lq.read("a")[:8, :8]
    padding = ((0, 8 - image.shape[0]), (0, 8 - image.shape[1]), (0, 0))
    if width < 8 and height < 8:  # there is only one position
        assert np.array_equal(hwc(plain["lq"]), np.pad(image, padding, "symmetric"))


def test_small_ground_truths_are_degraded_before_they_are_padded():
    section = {"type": "BicubicDown"}
    arguments = {"scale": 2}
    small = Memory({"a": smooth(12, 40)})
    item = StoredPairs(small, degradation=section, gt_size=32, small="pad", **arguments)[SampleIndex(0, 3, 0)]
    assert item["gt"].shape == (3, 32, 32) and item["lq"].shape == (3, 16, 16)
    full = hwc(StoredPairs(small, degradation=section, **arguments)[0]["lq"])
    assert any(np.array_equal(hwc(item["lq"])[:6], full[:, left : left + 16]) for left in range(5))


def test_small_pairs_are_skipped_and_counted(caplog):
    gt = Memory({"a": noise(8, 40), "b": noise(40, 40)})
    with caplog.at_level("INFO", "mcir"):
        dataset = StoredPairs(gt, degradation={"type": "BicubicDown"}, scale=2, gt_size=32, small="skip")
    assert len(dataset) == 1 and dataset.name(0) == "b"
    assert "StoredPairs: 1 of 2 images are smaller than gt_size 32 and are skipped" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataroot_lq": "x", "gt_crop": "left"}, "gt_crop: expected 'center' or null, got 'left'"),
        ({"dataroot_lq": "x", "small": "drop"}, "small: .*got 'drop'"),
        ({"gt_crop": "center"}, "gt_crop: requires dataroot_lq"),
        ({"filename_tmpl": "{}_*"}, "filename_tmpl: requires dataroot_lq"),
    ],
)
def test_wrong_rules_for_pairs_are_rejected(tmp_path, arguments, message):
    save(tmp_path / "a.png", noise(32, 32))
    degradation = None if "dataroot_lq" in arguments else {"type": "BicubicDown"}
    with pytest.raises(ArgumentError, match=message):
        PairedImageDataset(str(tmp_path), degradation=degradation, scale=2, **arguments)


def test_the_error_of_an_argument_has_its_key_path(tmp_path):
    section = {
        "type": "PairedImageDataset",
        "dataroot_gt": str(tmp_path),
        "degradation": {"type": "JPEG", "quality": 0},
    }
    with pytest.raises(ComponentError, match="quality: ") as caught:
        DATASETS.build(section)
    assert caught.value.path == ("degradation", "quality")


# -- degradations that depend on the full image; subsets --------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 9])
def test_the_phase_of_a_mosaic_is_that_of_the_full_image(size):
    image = noise(19, 23) // 2 + 1  # no 0
    dataset = StoredPairs(
        Memory({"a": image}), degradation={"type": "BayerMosaic"}, gt_size=size, use_hflip=True, use_rot=True
    )
    full = hwc(StoredPairs(Memory({"a": image}), degradation={"type": "BayerMosaic"})[0]["lq"])
    assert np.array_equal(full[::2, ::2, 0], image[::2, ::2, 0]) and not full[1::2, :, 0].any()
    oriented = [turned for flat in (full, full[:, ::-1]) for turned in (np.rot90(flat, k) for k in range(4))]
    crops = {
        np.ascontiguousarray(turned[top : top + size, left : left + size]).tobytes()
        for turned in oriented
        for top in range(turned.shape[0] - size + 1)
        for left in range(turned.shape[1] - size + 1)
    }
    for position in range(100):
        item = dataset[SampleIndex(0, position, 0)]
        kept = item["lq"] > 0
        assert torch.equal(item["lq"][kept], item["gt"][kept]) and (kept.sum(0) == 1).all()
        assert np.ascontiguousarray(hwc(item["lq"])).tobytes() in crops


def test_the_full_image_is_read_once(monkeypatch):
    gt = Memory({"a": smooth(40, 40), "b": smooth(40, 40, seed=1)})
    dataset = StoredPairs(gt, degradation={"type": "HeteroscedasticNoise"}, gt_size=16)
    sizes = []
    read = gt.read
    monkeypatch.setattr(gt, "read", lambda key, window: (sizes.append(window[2:]), read(key, window))[1])
    for position in range(20):
        dataset[SampleIndex(position % 2, position, 0)]
    assert sizes.count((40, 40)) == 2 and sizes.count((16, 16)) == 20


@pytest.mark.parametrize("several", [False, True])
def test_subsets_are_nested_and_keep_the_noise_of_their_images(tmp_path, several):
    for index in range(12):
        save(tmp_path / "gt" / f"{index}.png", smooth(24, 24, seed=index))
        save(tmp_path / "lq" / f"{index}_1.png", smooth(24, 24, seed=index))
    degraded = {"degradation": {"type": "HeteroscedasticNoise"}}
    arguments = {"dataroot_lq": str(tmp_path / "lq"), "filename_tmpl": "{}_*"} if several else degraded
    full = PairedImageDataset(str(tmp_path / "gt"), **arguments)
    subsets = [PairedImageDataset(str(tmp_path / "gt"), max_images=count, **arguments) for count in (1, 4, 12)]
    names = [[each.name(index) for index in range(len(each))] for each in (*subsets, full)]
    assert [len(each) for each in names] == [1, 4, 12, 12] and names[2] == names[3]
    assert set(names[0]) < set(names[1]) < set(names[2])
    other = PairedImageDataset(str(tmp_path / "gt"), max_images=4, subset_seed=1, **arguments)
    assert [other.name(index) for index in range(4)] != names[1]
    for index, name in enumerate(names[1]):
        item, same = subsets[1][SampleIndex(index, 9, 0)], full[SampleIndex(names[3].index(name), 9, 0)]
        assert item["gt_path"] == same["gt_path"] and torch.equal(item["lq"], same["lq"])
    with pytest.raises(ArgumentError, match=r"max_images: expected 1 … 12, the number of images, got 13"):
        PairedImageDataset(str(tmp_path / "gt"), max_images=13, **arguments)


def test_subsets_keep_their_stored_negatives(tmp_path):
    for index in range(6):
        for folder in ("gt", "lq", "negatives"):
            save(tmp_path / folder / f"{index}.png", noise(8, 8, seed=index))
    roots = str(tmp_path / "gt"), str(tmp_path / "lq")
    dataset = PairedImageDataset(*roots, dataroot_negatives=[str(tmp_path / "negatives")], max_images=3)
    for index in range(3):
        assert torch.equal(dataset[index]["negatives"][0], dataset[index]["gt"])


# -- stored negatives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size", [(20, 30), (5, 12)])
def test_stored_negatives_are_cropped_and_augmented_as_the_ground_truth(scale, size):
    gt, lq = coordinates(scale, *size)
    stored = [Memory({"a": gt.read("a")}), Memory({"a": 255 - gt.read("a")})]
    arguments = {"scale": scale, "gt_size": 8 * scale, "use_hflip": True, "use_rot": True, "small": "pad"}
    dataset, plain = StoredPairs(gt, lq, negatives=stored, **arguments), StoredPairs(gt, lq, **arguments)
    for position in range(60):
        item, bare = dataset[SampleIndex(0, position, 1)], plain[SampleIndex(0, position, 1)]
        assert "negatives" not in bare and torch.equal(bare["gt"], item["gt"]) and torch.equal(bare["lq"], item["lq"])
        assert item["negatives"].shape == (2, 3, 8 * scale, 8 * scale) and item["negatives"].dtype == torch.uint8
        assert torch.equal(item["negatives"][0], item["gt"]) and torch.equal(item["negatives"][1], 255 - item["gt"])


def test_stored_negatives_match_the_used_part_of_the_ground_truth():
    gt, lq = coordinates(2)
    wide = Memory({"a": np.pad(gt.read("a"), ((3, 3), (5, 5), (0, 0)))})
    dataset = StoredPairs(wide, lq, scale=2, gt_size=16, gt_crop="center", negatives=[gt], use_rot=True)
    for position in range(30):
        item = dataset[SampleIndex(0, position, 1)]
        assert torch.equal(item["negatives"][0], item["gt"])
    odd = Memory({"a": np.pad(gt.read("a"), ((0, 1), (0, 1), (0, 0)))})  # the remainder is not used
    item = StoredPairs(odd, degradation={"type": "BicubicDown"}, scale=2, negatives=[gt])[0]
    assert torch.equal(item["negatives"][0], item["gt"])


@pytest.mark.parametrize("as_database", [False, True])
def test_stored_negatives_are_found_by_the_name_of_the_pair(tmp_path, as_database):
    for name in (901, 902):
        save(tmp_path / "gt" / f"{name}.png", noise(16, 20, seed=name))
        for copy in (1, 2):
            save(tmp_path / "lq" / f"{name}_{copy}.png", noise(16, 20, seed=copy))
            for method in (1, 2, 3):
                image = noise(16, 20, seed=100 * name + 10 * copy + method)
                save(tmp_path / f"method{method}" / f"{name}_{copy}.bmp", image)
    roots = [f"{tmp_path}/method{method}" for method in (1, 2, 3)]
    if as_database:
        for root in roots:
            create_lmdb(root, f"{root}.lmdb", "raw")
        roots = [f"{root}.lmdb" for root in roots]
    section = {"dataroot_gt": f"{tmp_path}/gt", "dataroot_lq": f"{tmp_path}/lq", "filename_tmpl": "{}_*"}
    dataset = DATASETS.build({"type": "PairedImageDataset", **section, "dataroot_negatives": roots})
    assert len(dataset) == 4
    for index in range(4):
        name, copy = map(int, dataset.name(index).split("_"))
        for method, negative in enumerate(dataset[index]["negatives"], start=1):
            assert np.array_equal(hwc(negative), noise(16, 20, seed=100 * name + 10 * copy + method))


def test_stored_negatives_may_have_another_depth_or_color():
    gt = Memory({"a": noise(8, 8), "b": noise(8, 8, seed=1)})
    deep = Memory({"a": noise(8, 8, dtype=np.uint16), "b": noise(8, 8)})
    gray = Memory({"a": noise(8, 8, channels=1), "b": noise(8, 8)})
    dataset = StoredPairs(gt, gt, negatives=[deep, gray])
    item = dataset[0]
    assert item["gt"].dtype == torch.uint8 and item["negatives"].dtype == torch.float32
    assert np.array_equal(hwc(item["negatives"][0]), deep.read("a").astype(np.float32) / np.float32(65535))
    assert np.array_equal(
        hwc(item["negatives"][1]), np.repeat(gray.read("a"), 3, 2).astype(np.float32) / np.float32(255)
    )
    assert dataset[1]["negatives"].dtype == torch.float32
    assert StoredPairs(gt, gt, negatives=[gray], color="gray")[1]["negatives"].shape == (1, 1, 8, 8)


def test_images_that_differ_only_in_their_extension_keep_it(tmp_path):
    for folder in ("gt", "lq", "neg"):
        for name in ("1.png", "1.jpg", "2.png"):
            save(tmp_path / folder / name, noise(16, 16))
    dataset = PairedImageDataset(str(tmp_path / "gt"), str(tmp_path / "lq"), dataroot_negatives=[str(tmp_path / "neg")])
    assert [dataset.name(index) for index in range(3)] == ["1.jpg", "1.png", "2"]
    assert dataset[0]["negatives"].shape == (1, 3, 16, 16)
