import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from kdinpaint._core.errors import ConfigError, DataError, ShapeError
from kdinpaint.data import MaskGenerator, PhotoFolder, TrainingSamples
from kdinpaint.data.windows import centre_window, cut_window, draw_window


def make(photos, **options):
    options = {"size": 64, "seed": 0, "length": 12, **options}
    return TrainingSamples(photos, MaskGenerator(), **options)


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in ("image", "mask"))


@pytest.fixture
def photos(photo_folder):
    return PhotoFolder(photo_folder)


def plain(count, size=80):
    """Photographs that can be told apart by their colour."""
    return [torch.full((3, size, size + 9), 10 * (1 + n), dtype=torch.uint8) for n in range(count)]


def test_shapes_and_ranges(photos):
    for sample in make(photos):
        assert sample["image"].shape == (3, 64, 64)
        assert sample["mask"].shape == (1, 64, 64)
        assert sample["image"].dtype == sample["mask"].dtype == torch.float32
        assert 0 <= float(sample["image"].min()) < float(sample["image"].max()) <= 1
        assert set(sample["mask"].unique().tolist()) == {0.0, 1.0}


def test_random_access_equals_sequential_access(photos):
    sequential = list(make(photos))
    again = make(photos, length=1000)
    for index in np.random.default_rng(0).permutation(12).tolist():
        assert same(again[index], sequential[index])


def test_workers_make_no_difference(photo_folder):
    samples = make(PhotoFolder(photo_folder), length=6)
    loader = DataLoader(samples, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    for number, batch in enumerate(loader):
        alone = [samples[2 * number + place] for place in (0, 1)]
        assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in alone]))
        assert torch.equal(batch["mask"], torch.stack([sample["mask"] for sample in alone]))


def test_seeds_differ_and_samples_differ(photos):
    first, other = make(photos), make(photos, seed=1)
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    assert not any(same(first[0], first[index]) for index in range(1, 12))


def test_every_epoch_holds_every_photograph_once_in_its_own_order():
    samples = make(plain(8), length=80)
    colours = torch.tensor([round(float(sample["image"].mean()) * 255) for sample in samples]).view(10, 8)
    assert torch.equal(colours.sort(1).values, (10 * torch.arange(1, 9)).expand(10, 8))
    assert len({tuple(row) for row in colours.tolist()}) > 5


def test_half_are_flipped_and_flip_changes_nothing_else():
    ramp = torch.arange(0, 250, 2, dtype=torch.uint8).expand(3, 125, 125)
    flipping, straight = (make([ramp], flip=flip, length=60) for flip in (True, False))
    flipped = 0
    for a, b in zip(flipping, straight, strict=True):
        assert torch.equal(a["mask"], b["mask"])
        assert b["image"][0, 0, 0] < b["image"][0, 0, -1]
        if a["image"][0, 0, 0] > a["image"][0, 0, -1]:
            flipped += 1
            assert torch.equal(a["image"], b["image"].flip(-1))
        else:
            assert torch.equal(a["image"], b["image"])
    assert 18 < flipped < 42


def test_any_callable_gives_masks(photos):
    samples = TrainingSamples(
        photos, lambda size, rng: torch.ones(1, *size, dtype=torch.bool), size=32, seed=0, length=1
    )
    assert samples[0]["mask"].dtype == torch.float32
    wrong = TrainingSamples(photos, lambda size, rng: torch.ones(size), size=32, seed=0, length=1)
    with pytest.raises(ShapeError, match=r"masks gave a float32 tensor of shape \(32, 32\); expected \(1, 32, 32\)"):
        wrong[0]


def test_errors(photos):
    for option in ({"size": 0}, {"length": 0}, {"seed": -1}, {"min_window": 0}, {"min_window": 1.5}):
        (name,) = option
        with pytest.raises(ConfigError, match=f"{name}={option[name]}"):
            make(photos, **option)
    with pytest.raises(ConfigError, match="photos is empty"):
        make([])
    with pytest.raises(DataError, match=r"89 x 80 pixels and the window 128.* Pass min_size=128 to PhotoFolder"):
        make(plain(1), size=128)[0]
    for index in (-1, 12):
        with pytest.raises(IndexError, match="of 12"):
            make(photos)[index]


@given(
    height=st.integers(16, 300),
    width=st.integers(16, 300),
    smallest=st.floats(0.01, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_lie_inside_and_respect_the_limits(height, width, smallest, seed):
    short = min(height, width)
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, short + 1))
    for _ in range(20):
        top, left, side = draw_window(height, width, size=size, smallest=smallest, rng=rng)
        assert min(max(size, round(smallest * short)), short) <= side <= short
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side


def test_window_sides_reach_both_ends():
    rng = np.random.default_rng(0)
    sides = {draw_window(20, 30, size=8, smallest=0.5, rng=rng)[2] for _ in range(300)}
    assert sides == set(range(10, 21))


def test_cutting_at_the_same_size_is_exact_and_smaller_is_antialiased(chelsea):
    photo = torch.from_numpy(np.array(chelsea)).permute(2, 0, 1)
    assert centre_window(64, 96) == (0, 16, 64)
    exact = cut_window(photo, (0, 16, 64), 64)
    assert torch.equal(exact.mul(255).round().byte(), photo[:, :, 16:80])
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32).expand(3, 64, 64)
    assert cut_window(stripes, (0, 0, 64), 16)[:, 2:-2, 2:-2].sub(0.5).abs().max() < 0.1


def test_recolor_changes_colours_only(photos):
    plain_samples, colourful = make(photos, length=30), make(photos, recolor=True, length=30)
    orders = set()
    for before, after in zip(plain_samples, colourful, strict=True):
        assert torch.equal(before["mask"], after["mask"])
        assert 0 <= float(after["image"].min()) < float(after["image"].max()) <= 1
        assert not torch.equal(before["image"], after["image"])
        # Gamma, contrast and brightness rise with the value: within a channel the order of pixels stays.
        ranks = [tuple(channel.flatten().argsort(stable=True)[::97].tolist()) for channel in before["image"]]
        found = [tuple(channel.flatten().argsort(stable=True)[::97].tolist()) for channel in after["image"]]
        if len(set(ranks)) == 3 and set(found) == set(ranks):
            orders.add(tuple(ranks.index(f) for f in found))
    assert len(orders) > 2
    assert same(colourful[5], make(photos, recolor=True, length=30)[5])
