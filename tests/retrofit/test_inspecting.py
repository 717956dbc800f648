"""What `inspect` proposes for networks whose stages do not simply take one feature to a lower resolution."""

import pytest
import torch
from harness import assert_equal
from retrofit_hosts import BOTH, IMAGE, MASK, Partial, liven, photo, up
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, ModuleTeacher, RetrofitPlan, inspect, retrofit
from kdinpaint.retrofitting import FilledStage, Taps


class TwoWays(nn.Module):
    """A local and a global feature of one size, as Fourier convolutions have them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(before, after, 3, stride, 1), nn.Conv2d(before, after, 5, stride, 2)

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        near, far = x if isinstance(x, tuple) else (x, x)
        return (self.near(near) + self.far(far)).relu(), self.far(near).relu()


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(TwoWays(4, 6, 1), TwoWays(6, 8, 2), TwoWays(8, 10, 2), TwoWays(10, 10, 1))
        self.head = nn.Conv2d(20, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return up(self.head(torch.cat(self.model(x), 1)), x)


class Pooling(nn.Module):
    """Its resolution goes down between modules, by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(m, n, 3, padding=1) for m, n in ((4, 6), (6, 8), (8, 8)))
        self.more = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(22, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        b = self.b(F.max_pool2d(a, 2)).relu()
        c = self.more(self.c(F.max_pool2d(b, 2)))
        return self.head(torch.cat([a, up(b, x), up(c, x)], 1))


HOSTS = {
    "partial": (Partial, (IMAGE, MASK), "arg:1", ["levels.0", "levels.1"], (0,)),
    "fourier": (Fourier, (BOTH,), "input:-1", ["model.1", ("model.2", "model.3")], (0,)),
    "pooling": (Pooling, (BOTH,), "input:-1", ["b", ("c", "more")], ()),
}


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_found_can_be_filled_and_guided(name):
    build, args, mask, targets, output = HOSTS[name]
    net = build().eval()
    before = net(*args)
    found = inspect(net, args)
    assert [level.target for level in found.levels] == targets
    assert [level.stride for level in found.levels] == [2, 4]
    assert {level.output for level in found.levels} == {output}
    with torch.no_grad():
        _, bare = Taps(net, found.levels)(*args)  # without fillers, the levels alone say where the feature is
    plan = RetrofitPlan(found.levels, mask=mask, hidden_channels=4)
    assert plan.outputs == ({level.name: (0,) for level in found.levels} if output else None)
    report = retrofit(net, plan, args)
    assert report.levels == found.levels
    assert_equal(net(*args), before)
    teacher = AutoEncoder.for_levels(report.levels, blocks=0, head_channels=4)
    guide = Distiller(net, teacher, plan)
    assert_equal([f.detach() for f in guide.taps(*args)[1]], bare)
    liven(net)
    _, losses = guide(*args, image=IMAGE, mask=MASK)
    sum(losses.values()).backward()
    fillers = [m.kdinpaint_filler for m in net.modules() if isinstance(m, FilledStage)]
    assert all(bool(f.exit.weight.grad.any()) for f in fillers)
    guide.remove()


def test_a_teacher_with_two_features_a_stage():
    net = Fourier()
    levels = inspect(net, (BOTH,)).levels
    teacher = ModuleTeacher(net, levels)
    assert [tuple(f.shape) for f in teacher(BOTH)] == [(2, 8, 12, 16), (2, 10, 6, 8)]


def test_outputs_of_the_plan_come_first():
    net = Partial().eval()
    levels = inspect(net, (IMAGE, MASK)).levels
    plan = RetrofitPlan(levels, outputs={"levels.1": 1})
    assert plan.outputs == {"levels.0": (0,), "levels.1": 1}
    assert RetrofitPlan(levels, outputs=0).outputs == 0


def test_lists_of_features_are_no_stage():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)

        def forward(self, x):
            a = self.a(x)
            return [x, a, self.b(a)]

    net = nn.Sequential(Encoder())
    x, _ = photo()
    assert [level.name for level in inspect(net, (torch.cat([x, x[:, :1]], 1),)).levels] == ["0.a", "0.b"]
