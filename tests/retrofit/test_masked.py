"""The mask of methods that are called past the host's forward: `with masked(net, mask)`."""

import threading

import pytest
import timm
import torch
from harness import assert_equal, random_mask
from retrofit_hosts import BOTH, CASES, IMAGE, KWARG, MASK, Checkpointed, ForwardFeatures, installed, liven
from torch import nn

from kdinpaint import RetrofitPlan, inspect, retrofit
from kdinpaint.errors import ConfigError, ShapeError
from kdinpaint.retrofitting import disabled, masked

X = torch.cat([torch.rand(2, 3, 64, 64), random_mask(2, 64, 64).float()], 1)


def features_host():
    case = CASES["features"]
    net = ForwardFeatures().eval()
    retrofit(net, case.plan, case.args)
    return liven(net), case.args[0]


def test_a_method_sees_the_hole():
    net, batch = features_host()
    seen = []
    handle = net.levels[1].register_forward_hook(lambda module, args, output: seen.append(output))
    net(batch)
    handle.remove()
    with masked(net, MASK):
        found = net.forward_features(IMAGE)
    assert_equal(found["level1"], seen[0])
    with disabled(net):
        plain = net.forward_features(IMAGE)
    assert not torch.equal(found["level1"], plain["level1"])
    with disabled(net), masked(net, MASK):
        assert_equal(net.forward_features(IMAGE), plain)
    with pytest.raises(ConfigError, match=r"outside a call.*forward_features.*retrofitting\.masked"):
        net.forward_features(IMAGE)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "efficientvit_b0"])
def test_forward_features_of_timm(name):
    net = timm.create_model(name, in_chans=4).eval()
    before = net.forward_features(X)
    retrofit(net, RetrofitPlan(inspect(net, (X,)).levels, hidden_channels=4), (X,))
    with pytest.raises(ConfigError, match="outside a call"):
        net.forward_features(X)
    with masked(net, X[:, -1:]):
        assert_equal(net.forward_features(X), before)
    liven(net)
    with masked(net, X[:, -1:]):
        found = net.forward_features(X)
        assert not torch.equal(found, before)
        assert_equal(net.forward_head(found), net(X))
    assert_equal(net.forward_head(found), net(X))


def test_the_innermost_mask_counts_and_a_call_of_the_host_takes_it():
    net = installed()
    liven(net)
    other = random_mask(2, 24, 32, seed=5).float()
    expected = [net(IMAGE, mask=m) for m in (MASK, other, torch.zeros_like(MASK))]
    with masked(net, MASK[:, 0].bool()):
        assert_equal(net(IMAGE, mask=other), expected[0])
        with masked(nn.Sequential(net), other):
            assert_equal(net(IMAGE), expected[1])
        assert_equal(net(IMAGE), expected[0])
    assert_equal(net(IMAGE), expected[2])


def test_nothing_is_left_after_an_error_or_in_other_threads():
    net = liven(installed())
    errors = []

    def elsewhere():
        try:
            net.levels[0](IMAGE)
        except ConfigError as error:
            errors.append(error)

    def fail():
        with masked(net, MASK):
            net.levels[0](IMAGE)
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        fail()
    elsewhere()
    assert len(errors) == 2


def test_stages_of_several_modules_and_their_parts():
    net = liven(installed(RetrofitPlan([("levels.0", "levels.1")], mask="kwarg:mask")))
    seen = []
    net.levels[1].register_forward_hook(lambda module, args, output: seen.append(output))
    net(IMAGE, **KWARG)
    with masked(net, MASK):
        assert_equal(net.levels[1](net.levels[0](IMAGE)), seen[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_stages_run_again_inside(reentrant):
    net = Checkpointed(reentrant)
    retrofit(net, CASES["checkpointed"].plan, (BOTH,))
    liven(net)
    gradients = []
    for net.on in (False, True):
        net.zero_grad()
        with masked(net, BOTH[:, -1:]):
            net.forward(BOTH).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_backward_pass_of_another_thread_has_the_mask():
    """As that of a GPU, which runs checkpointed stages again in a thread of its own."""
    net, seen = liven(installed()), []

    def backward():
        leaf = torch.zeros(1, requires_grad=True)
        leaf.register_hook(lambda gradient: seen.append(net.levels[0](IMAGE)))
        leaf.sum().backward()

    with masked(net, MASK):
        thread = threading.Thread(target=backward)
        thread.start()
        thread.join()
        assert_equal(seen[0], net.levels[0](IMAGE))
    with pytest.raises(ConfigError, match="outside a call"):
        backward()
    assert not net.levels[0].feed._lent


def test_compiled():
    torch.compiler.reset()
    net, _ = features_host()
    run = torch.compile(net.forward_features, backend="aot_eager", fullgraph=True)
    for seed in (1, 2):
        mask = random_mask(2, 24, 32, seed=seed).float()
        with masked(net, mask):
            torch.testing.assert_close(run(IMAGE), net.forward_features(IMAGE), rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(ConfigError, match="not retrofitted"), masked(nn.Identity(), MASK):
        pass
    with pytest.raises(ShapeError, match="expected a tensor"), masked(installed(), MASK[0, 0]):
        pass
