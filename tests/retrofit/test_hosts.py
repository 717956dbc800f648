"""What retrofit promises, for hosts that each do one thing in a way of their own."""

import copy
import pickle

import pytest
import torch
from harness import assert_equal, tensors
from retrofit_hosts import BOTH, CASES, Case, Checkpointed
from torch import Tensor, nn

from kdinpaint import retrofit, strip, unretrofit
from kdinpaint.retrofitting import FilledStage, disabled


def liven(net: nn.Module, scale: float = 0.3) -> nn.Module:
    """Fillers that have left their initial state."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, FilledStage):
                module.kdinpaint_filler.exit.weight.normal_(0, scale)
                module.kdinpaint_filler.exit.bias.normal_(0, scale)
    return net


def run(net: nn.Module, case: Case) -> list[Tensor]:
    torch.manual_seed(5)  # dropout
    return tensors(net(*case.args, **case.kwargs))


def state_of(net: nn.Module) -> tuple[object, ...]:
    """Everything that a host is, beside its code."""
    hooks = [
        [list(m.__dict__[key]) for key in sorted(m.__dict__) if key.endswith(("hooks", "_kwargs", "_called"))]
        for m in net.modules()
    ]
    ids = [(name, id(module), module.training) for name, module in net.named_modules(remove_duplicate=False)]
    parameters = [(name, id(p), p.requires_grad, p.grad is None) for name, p in net.named_parameters()]
    return repr(net), hooks, ids, parameters, list(net.state_dict()), [sorted(m.__dict__) for m in net.modules()]


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


def installed(case: Case) -> nn.Module:
    net = case.build()
    retrofit(net, case.plan, case.args, example_kwargs=case.kwargs)
    return net


def test_fresh_fillers_are_the_identity(case):
    net = case.build()
    for training in (True, False):
        host, own = copy.deepcopy(net).train(training), copy.deepcopy(net).train(training)
        before = copy.deepcopy(own.state_dict())
        report = retrofit(own, case.plan, case.args, example_kwargs=case.kwargs)
        assert all(isinstance(count, int) and count > 0 for count in report.parameters)
        assert str(report).count("\n") == len(report.levels) + 1
        assert all(m.training == training for m in own.modules())
        assert_equal({k: v for k, v in own.state_dict().items() if k in before}, before)
        assert_equal(run(own, case), run(host, case))
        assert_equal(run(own, case), run(host, case))  # statistics of the first call count


def test_fillers_act_and_can_be_switched_off(case):
    net = case.build().eval()
    before = run(net, case)
    retrofit(net, case.plan, case.args, example_kwargs=case.kwargs)
    liven(net)
    after = run(net, case)
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    with disabled(net):
        assert_equal(run(net, case), before)
        with disabled(net):
            pass
        assert_equal(run(net, case), before)
    assert_equal(run(net, case), after)


def test_one_way_back(case):
    net = case.build()
    before, state, output = state_of(net), copy.deepcopy(net.state_dict()), run(copy.deepcopy(net), case)
    retrofit(net, case.plan, case.args, example_kwargs=case.kwargs)
    liven(net)
    unretrofit(net)
    assert state_of(net) == before
    assert_equal(net.state_dict(), state)
    assert_equal(run(net, case), output)


def test_checkpoints_of_the_host_load_before_and_after(case):
    host = case.build().eval()
    net = liven(installed(case)).eval()
    keys = list(net.state_dict())
    assert [key for key in keys if "kdinpaint_filler" not in key] == list(host.state_dict())
    net.load_state_dict(host.state_dict())
    with disabled(net):
        assert_equal(run(net, case), run(host, case))
    again = liven(installed(case), 1.0).eval()
    again.load_state_dict(net.state_dict())
    assert_equal(run(again, case), run(net, case))
    broken = {key: value for key, value in host.state_dict().items() if key != next(iter(host.state_dict()))}
    with pytest.raises(RuntimeError, match="Missing"):
        net.load_state_dict(broken)
    with pytest.raises(RuntimeError, match="Unexpected"):
        net.load_state_dict({**host.state_dict(), "surplus.weight": torch.zeros(1)})


@pytest.mark.parametrize("travel", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_travels(case, travel):
    if travel is not copy.deepcopy and "lambda" in str(case.plan.mask):
        pytest.skip("a lambda as mask cannot be pickled")
    net = liven(installed(case)).eval()
    arrived = travel(net)
    assert_equal(run(arrived, case), run(net, case))
    liven(arrived, 2.0)
    assert not torch.equal(run(arrived, case)[0], run(net, case)[0])
    unretrofit(arrived)
    assert not any(isinstance(m, FilledStage) for m in arrived.modules())


def test_a_step_lowers_the_loss_and_strip_changes_nothing(case):
    net = installed(case).train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = sum((t - 0.5).square().mean() for t in run(net, case))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved = [m.kdinpaint_filler.exit.weight for m in net.modules() if isinstance(m, FilledStage)]
    assert all(bool(weight.abs().sum() > 0) for weight in moved)
    net.eval()
    before = run(net, case)
    strip(net)
    assert_equal(run(net, case), before)


def test_compiled(case):
    if isinstance(case.build(), Checkpointed):
        pytest.skip("checkpointing is compiled by a graph of its own: test_checkpointing_is_compiled")
    torch.compiler.reset()
    net = liven(installed(case)).eval()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    expected, actual = run(net, case), tensors(compiled(*case.args, **case.kwargs))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_exported(case):
    if not case.exports:
        pytest.skip("the host itself cannot be exported")
    net = liven(installed(case)).eval()
    expected = run(net, case)  # before: torch.export puts copies in the place of a host's own dicts
    graph = torch.export.export(net, case.args, case.kwargs).module()
    torch.testing.assert_close(tensors(graph(*case.args, **case.kwargs)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    """Two calls with two masks, and then one backward pass over both."""
    case = CASES["checkpointed"]
    net = Checkpointed(reentrant)
    retrofit(net, case.plan, case.args)
    liven(net)
    other = BOTH.flip(-1)
    gradients = []
    for on in (False, True):
        net.on = on
        net.zero_grad()
        first, second = net(BOTH), net(other)
        (first.square().mean() + 2 * second.abs().mean()).backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0])
    net(BOTH).sum().backward()
    assert not net._forward_pre_hooks[next(iter(net._forward_pre_hooks))].__self__._again
