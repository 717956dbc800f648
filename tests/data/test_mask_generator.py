import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.data import MaskGenerator

SIDES = st.integers(64, 512)
SEEDS = st.integers(0, 2**32 - 1)
KINDS = ("mixed", "strokes", "boxes")


@pytest.mark.parametrize("kind", KINDS)
@given(height=SIDES, width=SIDES, seed=SEEDS)
def test_ratio_is_within_one_point_of_the_target(kind, height, width, seed):
    rng = np.random.default_rng(seed)
    target = rng.uniform(0.01, 0.6)
    mask = MaskGenerator(kind).draw((height, width), rng, target)
    assert mask.shape == (1, height, width)
    assert mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert abs(float(mask.double().mean()) - target) < 0.01


@given(side=st.integers(16, 128), seed=SEEDS, ratio=st.sampled_from([0.01, 0.3, 0.95]))
def test_strokes_meet_it_to_the_pixel_at_any_size(side, seed, ratio):
    mask = MaskGenerator("strokes").draw((side, side + 5), np.random.default_rng(seed), ratio)
    assert int(mask.sum()) == round(ratio * mask.numel())


@pytest.mark.parametrize("kind", KINDS)
def test_ratios_cover_the_range_evenly(kind):
    rng, generator = np.random.default_rng(0), MaskGenerator(kind, ratio=(0.1, 0.5))
    ratios = np.array([float(generator((64, 64), rng).mean()) for _ in range(200)])
    assert ratios.min() > 0.09
    assert ratios.max() < 0.51
    assert np.histogram(ratios, 4, (0.1, 0.5))[0].min() > 30


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_mask(kind):
    generator = MaskGenerator(kind)
    first, second, other = (
        torch.stack([generator((64, 80), rng) for _ in range(5)]) for rng in map(np.random.default_rng, (3, 3, 4))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_every_place_is_covered():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        mean = torch.stack([MaskGenerator(kind)((64, 64), rng) for _ in range(300)]).mean(0)
        assert mean.min() > 0.05, kind
        assert mean.max() < 0.55, kind


def test_strokes_are_no_specks():
    """Eroding by two pixels leaves most of a stroke at 256 pixels; of specks it would leave nothing."""
    rng = np.random.default_rng(0)
    for ratio in (0.02, 0.2, 0.5):
        hole = MaskGenerator("strokes").draw((256, 256), rng, ratio)[None]
        eroded = 1 - torch.nn.functional.max_pool2d(1 - hole, 5, 1, 2)
        assert float(eroded.sum()) > 0.4 * float(hole.sum())


def test_mixed_holds_strokes_boxes_and_both():
    generator, rng = MaskGenerator(), np.random.default_rng(0)
    shares = np.array([generator._share_of_boxes(rng, 0.3) for _ in range(400)])
    assert 0.4 < (shares == 0).mean() < 0.6
    assert 0.1 < (shares == 1).mean() < 0.2
    assert all(generator._share_of_boxes(rng, 0.02) in (0, 1) for _ in range(50))


def test_errors():
    for ratio in ((0, 0.5), (0.5, 0.4), (0.1, 1.0), (0.1,), (float("nan"), 0.5)):
        with pytest.raises(ConfigError, match=r"ratio is .*expected \(smallest, largest\)"):
            MaskGenerator(ratio=ratio)
    with pytest.raises(ConfigError, match="kind is 'lines'; expected one of 'mixed', 'strokes', 'boxes'"):
        MaskGenerator("lines")
    rng = np.random.default_rng(0)
    with pytest.raises(ShapeError, match=r"size is \(64, 8\); expected \(height, width\), each at least 16"):
        MaskGenerator()((64, 8), rng)
    with pytest.raises(ConfigError, match=r"ratio is 0.99; expected more than 0 and at most 0.95"):
        MaskGenerator().draw((64, 64), rng, 0.99)


def test_is_a_value():
    generator = MaskGenerator("boxes", ratio=(0.2, 0.3))
    assert pickle.loads(pickle.dumps(generator)) == generator
    assert {generator: 1}[MaskGenerator("boxes", ratio=(0.2, 0.3))] == 1
    with pytest.raises(AttributeError):
        generator.kind = "mixed"
