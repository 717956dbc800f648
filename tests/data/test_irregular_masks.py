import numpy as np
import pytest
import stand_ins
import torch
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError, KDInpaintWarning
from kdinpaint.data import IrregularMasks, PairManifest, TrainingSamples


@pytest.fixture(scope="module")
def testing_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    return root, stand_ins.irregular_test_masks(root)


@pytest.fixture(scope="module")
def training_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    stand_ins.irregular_training_masks(root)
    return root


def test_ratio_and_border_are_measured_file_by_file(testing_set):
    root, truth = testing_set
    masks = IrregularMasks(root)
    assert masks.polarity == "hole"
    assert len(masks) == 12
    for index, path in enumerate(masks.paths):
        white = np.asarray(Image.open(path)) > 127
        assert masks.ratios[index] == pytest.approx(white.mean(), abs=1e-12)
        low, near = truth[path.name]
        assert low / 10 < masks.ratios[index] <= (low + 1) / 10
        assert masks.near_border[index] == near
    for low in range(6):
        for border in ("clear", "near"):
            chosen = masks.select(low / 10, (low + 1) / 10, border=border)
            assert [truth[masks.paths[i].name] for i in chosen] == [(low, border == "near")]
        assert len(masks.select(low / 10, (low + 1) / 10)) == 2


def test_edges_of_a_bin_are_half_open(tmp_path):
    hole = np.zeros((100, 100), np.uint8)
    hole[20:30, 20:30] = 255
    Image.fromarray(hole).save(tmp_path / "0.png")
    masks = IrregularMasks(tmp_path)
    assert masks.select(0.0, 0.01) == [0]
    assert masks.select(0.01, 0.02) == []


def test_the_training_archive_has_the_opposite_polarity(training_set):
    masks = IrregularMasks(training_set, split="train")
    assert masks.polarity == "known"
    black = np.asarray(Image.open(masks.paths[0])) < 128
    assert np.array_equal(masks.read(0)[0].numpy() == 1, black)
    assert masks.ratios.max() < 0.2


def test_taking_one_archive_for_the_other_is_noticed(testing_set, training_set):
    with pytest.warns(KDInpaintWarning, match="white means known in these files, hole in the published test masks"):
        wrong = IrregularMasks(training_set / "irregular_mask" / "disocclusion_img_mask", split="test")
    assert wrong.polarity == "known"
    IrregularMasks(training_set / "irregular_mask", polarity="known")  # said on purpose: no warning
    with pytest.warns(KDInpaintWarning, match="known in the published train masks"):
        IrregularMasks(testing_set[0] / "mask", split="train")


@pytest.mark.parametrize("size", [(256, 256), (128, 128), (200, 300)])
def test_holes_do_not_grow_when_they_are_resized(testing_set, size):
    masks = IrregularMasks(testing_set[0])
    for index in range(0, 12, 3):
        whole, small = masks.read(index)[0].numpy(), masks.read(index, size)[0].numpy()
        rows, columns = (np.floor((np.arange(n) + 0.5) * 512 / n).astype(int) for n in size)
        assert np.array_equal(small, whole[np.ix_(rows, columns)])
        assert small.mean() == pytest.approx(whole.mean(), abs=0.01)


def test_calls_stay_within_the_ratio(testing_set):
    masks, rng = IrregularMasks(testing_set[0], ratio=(0.2, 0.4)), np.random.default_rng(0)
    drawn = [float(masks((64, 64), rng).mean()) for _ in range(30)]
    assert all(0.2 <= ratio <= 0.4 for ratio in drawn)
    assert len({round(ratio, 3) for ratio in drawn}) == 4
    with pytest.raises(DataError, match=r"none of 50 random masks has a hole ratio from 0\.9 to 1"):
        IrregularMasks(testing_set[0], ratio=(0.9, 1))((64, 64), rng)


def test_training_masks_are_varied_and_reproducible(training_set):
    masks = IrregularMasks(training_set, split="train")
    drawn = [masks((64, 64), np.random.default_rng(seed)) for seed in range(8)]
    again = [masks((64, 64), np.random.default_rng(seed)) for seed in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert all(set(mask.unique().tolist()) == {0, 1} for mask in drawn)
    assert len({mask.numpy().tobytes() for mask in drawn}) == 8
    plain = IrregularMasks(training_set, split="train", augment=False)
    mean = [np.mean([float(m((64, 64), np.random.default_rng(s)).mean()) for s in range(20)]) for m in (masks, plain)]
    assert mean[0] > 1.5 * mean[1], "dilated"


def test_in_the_training_stream_and_in_a_manifest(testing_set, tmp_path):
    masks = IrregularMasks(testing_set[0])
    photos = [torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)]
    sample = TrainingSamples(photos, masks, size=32, seed=0, length=3)[2]
    assert sample["mask"].shape == (1, 32, 32)
    stand_ins.save(tmp_path, "photo.png", stand_ins.picture(0, (64, 64)))
    manifest = PairManifest.build(tmp_path, size=64, masks=masks, per_bin=2, seed=0)
    assert [int(np.ceil(entry.ratio * 10)) for entry in manifest.entries] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_errors(testing_set):
    with pytest.raises(ConfigError, match="split is 'val'"):
        IrregularMasks(testing_set[0], split="val")
    with pytest.raises(ConfigError, match="ratio is"):
        IrregularMasks(testing_set[0], ratio=(0.6, 0.1))
    with pytest.raises(ConfigError, match="border is 'yes'"):
        IrregularMasks(testing_set[0]).select(0, 1, border="yes")
