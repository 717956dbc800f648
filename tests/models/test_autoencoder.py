"""AutoEncoder: any size, features for the student, the warning about over-completeness; and the encoder they share."""

import copy
import warnings
from typing import ClassVar

import pytest
import reference_layers as by_hand
import torch
from harness import SEEDS, ModuleContract, assert_equal, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.errors import ConfigError, KDInpaintWarning, ShapeError
from kdinpaint.models.padding import pad_to_multiple

SMALL = {"channels": (4, 6), "head_channels": 4}


class TestAutoEncoder(ModuleContract):
    errors: ClassVar = {
        "no levels": (ConfigError, r"channels is \[\]; expected", lambda _: AutoEncoder(channels=[])),
        "empty level": (ConfigError, "each at least 1", lambda _: AutoEncoder(channels=[4, 0])),
        "channels": (ShapeError, "image has 1 channels", lambda t: t.build()(torch.ones(1, 1, 8, 8))),
        "dimensions": (ShapeError, "image is .*expected", lambda t: t.build()(torch.ones(3, 8, 8))),
        "encode": (ShapeError, "image has 1 channels", lambda t: t.build().encode(torch.ones(1, 1, 8, 8))),
    }

    def build(self, **factory):
        return AutoEncoder(**SMALL, **factory)

    def inputs(self, batch=2, height=7, width=10, dtype=torch.float32, seed=0):
        return (torch.rand(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def function(self, module, image):
        return module.decoder(module.encoder(pad_to_multiple(image, 4)))[..., : image.shape[-2], : image.shape[-1]]

    def oracle(self, subject, image):
        x = F.pad(image, (0, -image.shape[-1] % 4, 0, -image.shape[-2] % 4), mode="replicate")
        out = by_hand.decoder(subject.decoder, by_hand.encoder(subject.encoder, x, x[:, :1]), None)
        return out[..., : image.shape[-2], : image.shape[-1]]


def test_has_no_skips_and_no_fillers():
    net = AutoEncoder(**SMALL)
    assert not net.decoder.skips
    assert not len(net.encoder.fillers)
    assert net.decoder.joins[0].in_channels == 6
    features = net.encode(torch.rand(1, 3, 8, 8))
    changed = [torch.full_like(features[0], 9.0), features[1]]
    assert_equal(net.decoder(changed), net.decoder(features))


@pytest.mark.parametrize(("in_channels", "channels", "limit"), [(3, (8, 48), 48), (1, (4,), 4), (3, (4, 8, 200), 192)])
def test_warns_when_over_complete(in_channels, channels, limit):
    what = f"{channels[-1]} channels at 1/{2 ** len(channels)} resolution is over-complete"
    with pytest.warns(KDInpaintWarning, match=f"{what}.*a {in_channels}-channel image.*fewer than {limit}") as caught:
        AutoEncoder(in_channels, channels)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AutoEncoder(in_channels, (*channels[:-1], limit - 1))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 8), SEEDS)
def test_pad_to_multiple(height, width, multiple, seed):
    x = torch.rand(1, 2, height, width, generator=seeded(seed))
    padded = pad_to_multiple(x, multiple)
    assert all(
        0 <= new - old < multiple and new % multiple == 0
        for new, old in zip(padded.shape[-2:], (height, width), strict=True)
    )
    rows, columns = (torch.arange(n).clamp(max=m - 1) for n, m in zip(padded.shape[-2:], (height, width), strict=True))
    assert_equal(padded, x[..., rows, :][..., columns])
    assert (padded is x) == (height % multiple == 0 and width % multiple == 0)


@pytest.mark.parametrize("filler", ["parallel", "serial", "none"])
def test_student_starts_from_the_teachers_features(filler):
    teacher = randomise(AutoEncoder(**SMALL))
    student = randomise(InpaintingNet(**SMALL, filler=filler))
    student.encoder.load_from(teacher.encoder)
    image, intact = torch.rand(2, 3, 9, 13), torch.zeros(2, 1, 9, 13)
    for mine, theirs in zip(student.encode(image, intact), teacher.encode(image), strict=True):
        torch.testing.assert_close(mine, theirs)
    before = student.state_dict()["encoder.levels.0.0.weight"].clone()
    assert not before[:, 3:].any()
    randomise(teacher, seed=9)
    assert_equal(student.state_dict()["encoder.levels.0.0.weight"], before)


@pytest.mark.parametrize("options", [{}, {"dilations": (1,)}, {"skips": False}])
@pytest.mark.parametrize("attention", [None, "fuse"])
def test_student_starts_as_its_teacher(options, attention):
    teacher = randomise(AutoEncoder(**SMALL, attention=attention))
    student = randomise(InpaintingNet(**SMALL, **options, attention=attention))
    image, intact = torch.rand(2, 3, 9, 13), torch.zeros(2, 1, 9, 13)
    encoder_alone = copy.deepcopy(student)
    encoder_alone.load_from(teacher, decoder=False)
    assert not torch.allclose(encoder_alone(image, intact), teacher(image))
    for mine, theirs in zip(encoder_alone.encode(image, intact), teacher.encode(image), strict=True):
        torch.testing.assert_close(mine, theirs)
    student.load_from(teacher)
    torch.testing.assert_close(student(image, intact), teacher(image))
    before = student(image, intact)
    randomise(teacher, seed=9)
    assert_equal(student(image, intact), before)


def test_a_student_learns_from_its_skips_although_they_start_at_zero():
    student = randomise(InpaintingNet(**SMALL))
    student.load_from(randomise(AutoEncoder(**SMALL)))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 4:9] = 1
    student(torch.rand(1, 3, 16, 16), mask).sum().backward()
    joins = [*student.decoder.joins, student.decoder.head[0]]
    for conv, deep in zip(joins, reversed(SMALL["channels"]), strict=True):
        assert not conv.weight[:, deep:].any()
        assert conv.weight.grad[:, deep:].abs().amax(0).amin() > 0


def test_a_wider_teacher_must_be_asked_for():
    student, wide = InpaintingNet(**SMALL), AutoEncoder(channels=(5, 7))
    with pytest.raises(ConfigError, match=r"\[4, 6\] channels, the teacher's \[5, 7\]; expected the same, or leading"):
        student.load_from(wide)
    student.load_from(wide, leading=True)
    assert_equal(student.decoder.context[0].conv1.weight, wide.decoder.context[0].conv1.weight[:6, :6])
    for other in (AutoEncoder(channels=(4, 6, 8)), AutoEncoder(channels=(3, 6))):
        with pytest.raises(ConfigError, match="channels, the teacher's"):
            student.load_from(other, leading=True)


@pytest.mark.parametrize("options", [{}, {"dilations": ()}, {"skips": False}])
def test_of_a_wider_teacher_nothing_lands_on_the_skips(options):
    student, wide = randomise(InpaintingNet(**{**SMALL, **options})), randomise(AutoEncoder(channels=(9, 14)))
    student.load_from(wide, leading=True)
    mine, theirs = ([*net.decoder.joins, net.decoder.head[0]] for net in (student, wide))
    for conv, source, deep in zip(mine, theirs, reversed(SMALL["channels"]), strict=True):
        outputs = min(len(conv.weight), len(source.weight))
        assert_equal(conv.weight[:outputs, :deep], source.weight[:outputs, :deep])
        assert not conv.weight[:, deep:].any()


def test_load_from_refuses_another_architecture():
    with pytest.raises(ValueError, match="zip"):
        InpaintingNet(**SMALL).encoder.load_from(AutoEncoder(channels=(4, 6, 8)).encoder)
    with pytest.raises(RuntimeError, match="must match the existing size"):
        InpaintingNet(**SMALL).encoder.load_from(AutoEncoder(channels=(5, 6)).encoder)


def test_attention_of_the_teacher():
    net = AutoEncoder(channels=(4, 6), attention="fuse")
    image = torch.rand(2, 3, 16, 24)
    features, looked = net.attend(image)
    torch.testing.assert_close(features, net.encode(image), rtol=0, atol=0)
    assert looked.rows.shape == (2, 8, 12, 96)
    with pytest.raises(ConfigError, match="no attention; build it with attention='fuse'"):
        AutoEncoder(channels=(4, 6)).attend(image)
