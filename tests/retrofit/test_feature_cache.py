"""FeatureCache: each sample once, the right teacher's, whatever happens to the files."""

import pytest
import torch
from harness import assert_equal, randomise
from small_students import LEVELS, Student, batch
from torch import nn

from kdinpaint import AutoEncoder, Distiller, ModuleTeacher, TimmTeacher
from kdinpaint._core.errors import ConfigError, KDInpaintWarning
from kdinpaint.retrofitting import FeatureCache, Level

X, TRUTH, MASK = batch()
KEYS = ["a", "folder/b.png"]


def teacher_net(seed=0):
    return randomise(AutoEncoder(3, (6, 8), head_channels=4), seed=seed)


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(teacher_net(), tmp_path)


def test_each_sample_is_computed_once(cache, tmp_path):
    expected = cache.teacher(TRUTH)
    assert_equal(cache(KEYS, TRUTH), expected)
    assert (cache.computed, cache.read) == (2, 0)
    assert_equal(cache(KEYS[::-1], torch.zeros_like(TRUTH)), [f.flip(0) for f in expected])
    assert (cache.computed, cache.read) == (2, 2)
    again = FeatureCache(teacher_net(), tmp_path)
    torch.testing.assert_close(again(["new", *KEYS], torch.cat([TRUTH[:1], TRUTH])), cache.teacher(TRUTH[[0, 0, 1]]))
    assert (again.computed, again.read) == (1, 2)
    assert len(list(cache.folder.iterdir())) == 3


def test_other_teachers_and_sizes_have_files_of_their_own(cache, tmp_path):
    cache(KEYS, TRUTH)
    other = FeatureCache(teacher_net(seed=1), tmp_path)
    assert other.fingerprint != cache.fingerprint
    assert_equal(other(KEYS, TRUTH), other.teacher(TRUTH))
    small = TRUTH[..., :16, :16]
    assert_equal(cache(KEYS, small), cache.teacher(small))
    taught = FeatureCache(AutoEncoder(3, (6, 8), head_channels=4, taught=[1]), tmp_path)
    taught.teacher.module.load_state_dict(teacher_net().state_dict())
    assert len(taught(KEYS, TRUTH)) == 1


def stages(levels=("0", "2"), select=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 6, 1))
    return ModuleTeacher(net, levels, example=TRUTH, select=select)


def picked(factor):
    return {"0": lambda f: factor * f}


def of_timm(**options):
    torch.manual_seed(0)
    return TimmTeacher("resnet10t", pretrained=False, **{"out_indices": (0, 2), **options})


OTHERS = {
    "stages": (stages, lambda: stages(["2", "4"])),
    "layout": (stages, lambda: stages(["0", Level("2", 6, 8, 4, (8, 8), "nhwc")])),
    "grid": tuple(lambda n=n: stages([Level("2", 6, 6, 0, (n, 4), "tokens")]) for n in (4, 8)),
    "function": (lambda: stages(select=picked(1)), lambda: stages(select=picked(2))),
    "indices": (of_timm, lambda: of_timm(out_indices=(1, 2))),
    "size": (of_timm, lambda: of_timm(size=(32, 32))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_teachers_of_the_same_weights_that_give_other_features_are_others(name, tmp_path):
    one, other = (FeatureCache(build(), tmp_path).fingerprint for build in OTHERS[name])
    assert one != other
    assert one == FeatureCache(OTHERS[name][0](), tmp_path).fingerprint


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_file_is_computed_again(cache, how):
    expected = cache(KEYS, TRUTH)
    path = cache.path(KEYS[0], TRUTH)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"truncated": content[:-40], "empty": b"", "flipped": content}[how])
    with pytest.warns(KDInpaintWarning, match="cannot be used .*computed again") as caught:
        torch.testing.assert_close(cache(KEYS, TRUTH), expected)
    assert caught[0].filename.endswith("test_feature_cache.py")
    torch.testing.assert_close(cache(KEYS, TRUTH), expected)
    assert cache.computed == 3


def test_limit(tmp_path):
    cache = FeatureCache(teacher_net(), tmp_path, limit=10000)
    with pytest.warns(KDInpaintWarning, match="has reached its limit of 10000 bytes"):
        cache(KEYS, TRUTH)
    assert len(list(cache.folder.iterdir())) == 1
    torch.testing.assert_close(cache(KEYS, TRUTH), cache.teacher(TRUTH))
    assert (cache.computed, cache.read) == (3, 1)


def test_half_precision_on_disk(cache, tmp_path):
    half = FeatureCache(teacher_net(), tmp_path, dtype=torch.float16)
    expected = cache.teacher(TRUTH)
    for _ in range(2):
        found = half(KEYS, TRUTH)
        assert all(f.dtype == torch.float32 for f in found)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    cache(KEYS, TRUTH)
    assert sum(f.stat().st_size for f in half.folder.iterdir()) < 0.6 * sum(
        f.stat().st_size for f in cache.folder.iterdir()
    )


def test_feeds_a_distiller(cache):
    guide = Distiller(Student(), cache.teacher, LEVELS)
    expected = guide(X, image=TRUTH, mask=MASK)[1]
    guide.load_state_dict(Distiller(Student(), cache.teacher, LEVELS).state_dict() | guide.state_dict())
    cache(KEYS, TRUTH)
    guide.eval()
    found = guide(X, mask=MASK, teacher_features=cache(KEYS, TRUTH))[1]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("2 keys for 1 images", lambda c: c(KEYS, TRUTH[:1])),
        ("expected one each", lambda c: c("ab", TRUTH)),
        ("limit is -1", lambda c: FeatureCache(c.teacher, c.folder, limit=-1)),
    ],
)
def test_errors(cache, message, act):
    with pytest.raises(ConfigError, match=message):
        act(cache)
