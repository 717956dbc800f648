"""Hosts with parts that are compiled, scripted, or work in place."""

import copy
import signal

import pytest
import torch
from harness import assert_equal
from retrofit_hosts import BOTH, liven
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from kdinpaint import RetrofitPlan, inspect, retrofit, strip, unretrofit
from kdinpaint.errors import ConfigError
from kdinpaint.retrofitting import FilledStage, disabled


class Host(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.act, self.head = nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 3, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.down(x)))


class Scripted(nn.Module):
    """Written so that TorchScript takes it, with a buffer that is replaced in every call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.drop(self.norm(self.conv(x)))


@pytest.fixture
def no_hang():
    """What Dynamo unrolls without end is a failure, where the system has an alarm."""

    def stop(number, frame):
        raise SystemExit("this hangs")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", ["whole", "call", "part"])
@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called"])
@pytest.mark.usefixtures("no_hang")
def test_compiled_parts(how, called):
    """The dry run is not compiled; afterwards the host compiles anew, with fillers and without."""
    torch.compiler.reset()
    counter = CompileCounter()
    net = Host().eval()
    before = net(BOTH)
    if how == "call":
        net.compile(backend=counter)
    compiled = net if how == "call" else torch.compile(net, backend=counter)
    host = nn.Sequential(compiled).eval() if how == "part" else net
    if called:
        compiled(BOTH)
    count = counter.frame_count
    found = inspect(compiled, (BOTH,))
    assert [level.target for level in found.levels] == [("down", "act"), "head"]
    retrofit(host, RetrofitPlan(["down"]), (BOTH,))
    assert counter.frame_count == count
    run = compiled if how == "whole" else host
    torch.testing.assert_close(run(BOTH), before)
    liven(host)
    with torch.compiler.set_stance("force_eager"):
        expected = run(BOTH)
    assert not torch.equal(expected, before)
    torch.testing.assert_close(run(BOTH), expected, rtol=1e-4, atol=1e-5)
    assert counter.frame_count > count
    with disabled(host):
        torch.testing.assert_close(run(BOTH), before)
    unretrofit(host)
    torch.testing.assert_close(run(BOTH), before)


@pytest.mark.filterwarnings("ignore")  # TorchScript is going away, and says so
@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_scripted_parts(kind):
    part = Scripted()
    if kind == "trace":
        part = torch.jit.trace(part, torch.rand(2, 6, 8, 8), check_trace=False)
    else:
        part = torch.jit.script(part.train(kind == "script"))
        part = torch.jit.freeze(part) if kind == "freeze" else part
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), part))
    state, modes = copy.deepcopy(net.state_dict()), [getattr(m, "training", None) for m in net.modules()]
    assert [level.name for level in inspect(net, (BOTH,)).levels] == ["0", "1"]
    retrofit(net, RetrofitPlan(["0", "1"]), (BOTH,), trainable="fillers")
    assert not any(p.requires_grad for n, p in net.named_parameters() if "kdinpaint_filler" not in n)
    strip(net)
    assert all(p.requires_grad for p in net.parameters())
    unretrofit(net)
    assert_equal(net.state_dict(), state)
    assert [getattr(m, "training", None) for m in net.modules()] == modes
    with pytest.raises(ConfigError, match=r"1\.1 is a .*Module, which hides its calls"):
        retrofit(net, RetrofitPlan(["1.1"]), (BOTH,))


class Moves(nn.Module):
    """Changes its input in place, but gives another tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) + 1


IN_PLACE = {
    "pair": (lambda: [nn.Identity(), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1)], ("1", "3"), True),
    "pair of views": (lambda: [nn.Flatten(1, 1), Moves(), nn.Conv2d(6, 8, 3, 2, 1)], ("1", "3"), True),
    "dropout": (lambda: [nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Conv2d(6, 8, 3, 2, 1))], "1", True),
    "pair of dropout": (lambda: [nn.Identity(), nn.Dropout(0.5, inplace=True), nn.Conv2d(6, 8, 1)], ("1", "3"), True),
    "later": (lambda: [nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True))], "1", False),
    "after a pair": (lambda: [nn.Conv2d(6, 6, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True)], ("1", "2"), False),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_fillers_see_the_input_as_it_was(name):
    """Also where a later module of the stage changes it, and where only training does; copied only where needed."""
    build, level, copied = IN_PLACE[name]
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1), *build(), nn.Conv2d(8, 3, 1)).eval()
    expected = net[0](BOTH)
    retrofit(net, RetrofitPlan([level]), (BOTH,))
    (stage,) = [m for m in net.modules() if isinstance(m, FilledStage)]
    assert stage.spec.in_place is copied
    read = []
    stage.kdinpaint_filler.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    net.train()(BOTH)
    assert_equal(read[0][..., : expected.shape[-2], : expected.shape[-1]], expected)
