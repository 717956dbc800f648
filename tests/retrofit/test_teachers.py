"""Teachers: timm encoders, the stages of any network, and an autoencoder that fits levels."""

import copy
import pickle

import pytest
import timm
import torch
from harness import assert_equal, randomise
from small_students import LEVELS, Student, batch
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, ModuleTeacher, TimmTeacher
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.retrofitting import Level

X, TRUTH, MASK = batch()


def levels(*pairs):
    return [Level(f"l{n}", 0, channels, stride, (1, 1)) for n, (channels, stride) in enumerate(pairs)]


def small_timm(**options):
    return TimmTeacher("resnet18", **{"pretrained": False, "out_indices": (0, 1), **options})


@pytest.mark.parametrize(
    ("pairs", "channels", "taught"),
    [
        (((8, 2), (16, 4)), (8, 16), (0, 1)),
        (((24, 4), (32, 8)), (16, 24, 32), (1, 2)),
        (((64, 8),), (16, 32, 64), (2,)),
        (((8, 2), (40, 16)), (8, 16, 20, 40), (0, 3)),
        (((20, 8), (20, 8)), (16, 16, 20), (2, 2)),
    ],
)
def test_autoencoder_fits_levels(pairs, channels, taught):
    net = AutoEncoder.for_levels(levels(*pairs), head_channels=4)
    assert (net.channels, net.taught) == (channels, taught)
    assert net.feature_channels == tuple(c for c, _ in pairs)
    features = net.encode(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape) for f in features] == [(1, c, 32 // s, 48 // s) for c, s in pairs]
    assert net(torch.rand(1, 3, 30, 41)).shape == (1, 3, 30, 41)


def test_weights_of_timm_from_a_folder(tmp_path):
    net = timm.create_model("resnet10t", pretrained=False)
    save_for_hf(net, tmp_path / "weights", safe_serialization=True)
    teacher = TimmTeacher(f"local-dir:{tmp_path / 'weights'}", out_indices=(0,))
    assert_equal(teacher.module.net.conv1[0].weight, net.conv1[0].weight)
    assert teacher.strides == (2,)


def test_taught_levels_do_not_change_the_reconstruction():
    one, other = AutoEncoder(3, (4, 6), head_channels=4), AutoEncoder(3, (4, 6), head_channels=4, taught=[1])
    other.load_state_dict(one.state_dict())
    assert_equal(other(TRUTH), one(TRUTH))
    assert_equal(other.encode(TRUTH), one.encode(TRUTH)[1:])
    assert AutoEncoder.for_levels(levels((3, 2)), 1, head_channels=4)(TRUTH[:, :1]).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("message", "act"),
    [
        ("strides of the levels are \\[\\]", lambda: AutoEncoder.for_levels([])),
        ("are \\[1, 2\\].*Leave such levels out", lambda: AutoEncoder.for_levels(levels((4, 1), (8, 2)))),
        ("are \\[14\\]", lambda: AutoEncoder.for_levels(levels((4, 14)))),
        ("are \\[0\\]", lambda: AutoEncoder.for_levels(levels((4, 0)))),
        ("are \\[4, 2\\].*shallow to deep", lambda: AutoEncoder.for_levels(levels((4, 4), (8, 2)))),
        ("stride 4 have 4 and 8 channels", lambda: AutoEncoder.for_levels(levels((4, 4), (8, 4)))),
        ("taught is \\[2\\]", lambda: AutoEncoder(3, (4, 6), taught=[2])),
        ("taught is \\[\\]", lambda: AutoEncoder(3, (4, 6), taught=[])),
        ("timm has no model 'resnet17'; near: .*resnet", lambda: TimmTeacher("resnet17", pretrained=False)),
        ("resnet18 gives no features with", lambda: small_timm(out_indices=(9,))),
        ("pass example=", lambda: ModuleTeacher(Student(), ["level1"])),
        ("no stage 'level9'", lambda: ModuleTeacher(Student(), ["level9"], example=X)),
    ],
)
def test_errors(message, act):
    with pytest.raises(ConfigError, match=message):
        act()


def test_a_wide_level_gets_a_bottleneck_behind_it():
    net = AutoEncoder.for_levels(levels((64, 2)), head_channels=4)
    assert (net.channels, net.taught) == ((64, 64, 64), (0,))
    assert [tuple(f.shape) for f in net.encode(TRUTH)] == [(2, 64, 16, 16)]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_timm_teacher_normalises_inside(channels):
    teacher = small_timm(in_channels=channels)
    assert (teacher.feature_channels, teacher.strides) == ((64, 64), (2, 4))
    image = torch.rand(2, channels, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    if channels != 3:
        mean, std = mean.mean().expand(channels), std.mean().expand(channels)
    expected = teacher.module.net((image - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(teacher(image), expected)
    with pytest.raises(ShapeError, match=f"expected {channels}"):
        teacher(torch.rand(1, channels + 1, 32, 32))


def test_timm_teacher_is_frozen_and_travels():
    teacher = small_timm()
    assert not list(teacher.parameters())
    assert not any(f.requires_grad for f in teacher.train()(TRUTH))
    expected = teacher(TRUTH)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert_equal(other(TRUTH), expected)
    assert_equal(small_timm(size=(32, 32)).double()(TRUTH.double())[0].shape, teacher(TRUTH)[0].shape)


def test_timm_teacher_of_fixed_size_and_channels_last():
    options = {"window_size": 4, "depths": (2, 2), "embed_dim": 24, "num_heads": (1, 2), "img_size": 32}
    teacher = TimmTeacher("swin_tiny_patch4_window7_224", pretrained=False, size=(32, 32), options=options)
    features = teacher(torch.rand(1, 3, 50, 40))
    assert [tuple(f.shape) for f in features] == [(1, 24, 8, 8), (1, 48, 4, 4)]


def test_stages_of_any_network():
    net = randomise(nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 9, 4, 2, 1)))
    teacher = ModuleTeacher(net, ["0", "2"], example=TRUTH[:1])
    assert teacher.feature_channels == (6, 9)
    first = net[0](TRUTH)
    assert_equal(teacher(TRUTH), [first, net(TRUTH)])
    assert not any(p.requires_grad for p in net.parameters())
    known = ModuleTeacher(net, [Level("2", 6, 9, 4, (8, 8))])
    assert_equal(known(TRUTH), [net(TRUTH)])
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert_equal(other(TRUTH), teacher(TRUTH))


def test_layouts_are_found():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 4, 4)
            self.stage, self.tokens = nn.Identity(), nn.Identity()

        def forward(self, x):
            return self.tokens(self.stage(self.conv(x).permute(0, 2, 3, 1)).flatten(1, 2))

    net = Last()
    teacher = ModuleTeacher(net, ["stage", "tokens"], example=torch.rand(1, 3, 32, 48))
    for size in ((32, 48), (16, 40)):
        image = torch.rand(1, 3, *size)
        assert_equal(teacher(image), [net.conv(image)] * 2)


def test_levels_and_paths_may_be_mixed():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 2, 2)

        def forward(self, x):
            y = self.conv(x)
            return y, -y.permute(0, 2, 3, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Two(), nn.Conv2d(6, 9, 2, 2)

        def forward(self, x):
            return self.b(self.a(x)[0])

    net = Net()
    level = Level("a", 3, 6, 2, (16, 16), "nhwc", output=(1,))
    teacher = ModuleTeacher(net, [level, "b"], example=TRUTH)
    assert teacher.feature_channels == (6, 9)
    assert_equal(teacher(TRUTH), [-net.a.conv(TRUTH), net(TRUTH)])
    assert_equal(
        ModuleTeacher(net, [level, "b"], example=TRUTH, select={"b": lambda y: 2 * y})(TRUTH)[1], 2 * net(TRUTH)
    )
    with pytest.raises(ConfigError, match=r"select names \['c'\]"):
        ModuleTeacher(net, [level, "b"], example=TRUTH, select={"c": 0})


@pytest.mark.parametrize(
    "build",
    [
        lambda: AutoEncoder.for_levels(LEVELS, head_channels=4),
        small_timm,
        lambda: ModuleTeacher(nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.Conv2d(6, 9, 2, 2)), ["0", "1"], example=TRUTH),
    ],
    ids=["autoencoder", "timm", "module"],
)
def test_every_teacher_teaches(build):
    student = Student()
    guide = Distiller(student, build(), LEVELS, scale="none")
    optimizer = torch.optim.SGD([*student.parameters(), *guide.trainable()], lr=1e-2)
    losses = []
    for _ in range(2):
        out, parts = guide(X, image=TRUTH, mask=MASK)
        total = F.l1_loss(out, TRUTH) + sum(parts.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    assert losses[1] < losses[0]
