"""What holds beside the forward pass: no trace, no stale state, threads and processes, states, the reference net."""

import copy
import gc
import random
import threading
import weakref
from collections import OrderedDict

import numpy as np
import pytest
import torch
from harness import assert_equal, random_mask
from retrofit_hosts import (
    BOTH,
    CASES,
    IMAGE,
    KWARG,
    MASK,
    Checkpointed,
    Plain,
    Positional,
    Reused,
    down,
    installed,
    liven,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from two_processes import needs_gloo

from kdinpaint import InpaintingNet, RetrofitPlan, inspect, retrofit, strip, unretrofit
from kdinpaint.errors import ConfigError, ShapeError, WeightsError
from kdinpaint.retrofitting import (
    FilledStage,
    Level,
    disabled,
    filler_state_dict,
    load_filler_state_dict,
    set_trainable,
)


def test_a_call_without_mask_has_no_hole():
    net = liven(installed())
    with disabled(net):
        plain = net(IMAGE, mask=MASK)
    assert_equal(net(IMAGE), plain)
    assert_equal(net(IMAGE, mask=torch.zeros_like(MASK)), plain)
    assert_equal(net(IMAGE, mask=MASK[:1]), net(IMAGE, mask=MASK[:1].expand(2, -1, -1, -1)))


def test_known_cells_keep_their_bits():
    net = Plain().eval()
    x = net.levels[0](IMAGE)
    retrofit(net, RetrofitPlan("levels.0", mask="kwarg:mask"), (IMAGE,), example_kwargs=KWARG)
    liven(net)
    seen = []
    net.levels[0].register_forward_hook(lambda module, args, output: seen.append(output))
    hole = torch.zeros_like(MASK)
    hole[..., 6:12, 10:20] = 1
    net(IMAGE, mask=hole)
    inside = torch.nn.functional.max_pool2d(hole, 2).bool().expand_as(x)
    assert_equal(seen[0][~inside], x[~inside])
    assert not torch.equal(seen[0][inside], x[inside])


def test_the_dry_run_leaves_no_trace():
    net = nn.Sequential(down(4, 6), nn.Dropout2d(0.5))
    net[0].eval()
    net[0][0].weight.grad = torch.ones_like(net[0][0].weight)
    state = copy.deepcopy(net.state_dict())
    numbers = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    modes = [m.training for m in net.modules()]
    inspect(net, (BOTH,))
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert (np.random.get_state()[1] == numbers[2]).all()
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(net[0][0].weight.grad, torch.ones_like(net[0][0].weight))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert_equal(net.state_dict(), state)


def test_caches_of_a_host_stay_as_they_were():
    """As attention of LeViT does, which would use a bias from before training for ever."""

    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bias = nn.Conv2d(4, 6, 3, 2, 1), nn.Parameter(torch.zeros(6, 1, 1))
            self.cache, self.sizes, self.kinds = {}, [3], set()

        def forward(self, x):
            self.sizes.append(x.shape)
            self.kinds.add(x.dtype)
            return self.conv(x) + (self.bias if self.training else self.cache.setdefault(x.device, 2 * self.bias))

    net = Cached()
    kept = net.cache
    retrofit(net, RetrofitPlan("conv"), (BOTH,))
    assert net.cache is kept
    assert (net.cache, net.sizes, net.kinds) == ({}, [3], set())
    net.bias.data.fill_(1.0)
    net.eval()(BOTH)
    assert all(bool((bias == 2).all()) and bias.requires_grad for bias in kept.values())


def test_stages_outside_of_a_call_and_after_an_error():
    net = liven(installed())
    with pytest.raises(ConfigError, match="outside a call"):
        net.levels[0](IMAGE)
    with disabled(net):
        net.levels[0](IMAGE)
    with pytest.raises(RuntimeError, match="channels"):
        net(torch.rand(2, 5, 24, 32), mask=MASK)
    with pytest.raises(ShapeError):
        net(IMAGE, mask=torch.zeros(3))
    with pytest.raises(ConfigError, match="outside a call"):
        net.levels[0](IMAGE)

    def interrupt(module, args, output):
        raise KeyboardInterrupt

    handle = net.head.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        net(IMAGE, mask=MASK)
    handle.remove()
    net(IMAGE, mask=MASK)
    with pytest.raises(ConfigError, match="outside a call"):
        net.levels[0](IMAGE)


def test_threads_do_not_meet():
    """As replicas of DataParallel do, threads share the modules; each has a mask of its own."""
    net = liven(installed())
    masks = [random_mask(2, 24, 32, seed=seed).float() for seed in range(4)]
    expected = [net(IMAGE, mask=mask) for mask in masks]
    results: dict[int, list[Tensor]] = {n: [] for n in range(4)}

    def work(number: int) -> None:
        with torch.no_grad():
            results[number] += [net(IMAGE, mask=masks[number]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, found in results.items():
        assert len(found) == 20
        assert_equal(found, [expected[number]] * 20)


@needs_gloo
def test_data_parallel_processes(tmp_path):
    """One process is enough to see that the reducer finds every parameter and that the mask passes through."""
    net = liven(installed())
    expected = net(IMAGE, mask=MASK)
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        outer = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            out = outer(IMAGE, mask=MASK)
            assert_equal(out, expected)
            out.square().mean().backward()
        assert all(p.grad is not None for p in net.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
def test_data_parallel_replicas():
    net = liven(installed()).cuda()
    expected = net(IMAGE.cuda(), mask=MASK.cuda())
    devices = list(range(torch.cuda.device_count()))
    torch.testing.assert_close(nn.DataParallel(net, devices)(IMAGE.cuda(), mask=MASK.cuda()), expected)


@pytest.mark.parametrize("name", ["checkpointed", "reentrant"])
def test_checkpointing_is_compiled(name):
    torch.compiler.reset()
    case = CASES[name]
    net = case.build()
    retrofit(net, case.plan, case.args)
    liven(net)
    compiled = torch.compile(net, backend="aot_eager")
    gradients = []
    for run in (net, compiled):
        net.zero_grad()
        run(BOTH).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_nothing_stays_alive_after_a_call():
    net = liven(installed(RetrofitPlan([("levels.0", "levels.1")], mask="kwarg:mask")))
    image, mask = IMAGE.clone(), MASK.clone()
    out = net(image, mask=mask)
    gone = [weakref.ref(t) for t in (image, mask, out)]
    del image, mask, out
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_trainable_parts():
    net = installed(trainable="fillers")
    net.levels[0][0].weight.requires_grad_(False)
    assert {n.split(".")[2] for n, p in net.named_parameters() if p.requires_grad} == {"kdinpaint_filler"}
    set_trainable(net, "encoder")
    assert not net.head.weight.requires_grad
    assert net.levels[1][0].weight.requires_grad
    set_trainable(net, "all")
    assert net.head.weight.requires_grad
    set_trainable(net, "fillers")
    strip(net)
    assert net.head.weight.requires_grad
    set_trainable(net, "fillers")
    unretrofit(net)
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(ConfigError, match="trainable"):
        set_trainable(net, "decoder")


def test_fillers_are_saved_by_themselves():
    net, other = liven(installed()), installed()
    state = {key: value.clone() for key, value in filler_state_dict(net).items()}
    assert state
    assert len(state) < len(net.state_dict())
    other.load_state_dict({**other.state_dict(), **{k: v for k, v in net.state_dict().items() if k not in state}})
    load_filler_state_dict(other, state)
    assert_equal(other(IMAGE, mask=MASK), net(IMAGE, mask=MASK))
    key = next(iter(state))
    with pytest.raises(WeightsError, match="the state has no"):
        load_filler_state_dict(other, {k: v for k, v in state.items() if k != key})
    with pytest.raises(WeightsError, match="the model has no"):
        load_filler_state_dict(other, {**state, key + "s": state[key]})
    with pytest.raises(WeightsError, match="the model's is"):
        load_filler_state_dict(other, {**state, key: torch.zeros(1)})


def test_shared_modules_have_one_filler():
    net = Reused()
    report = retrofit(net, RetrofitPlan(["first", "second"]), (BOTH,))
    assert len(report.levels) == 1
    assert net.first is net.second
    unretrofit(net)
    assert net.first is net.second


def test_masks_by_position_and_by_name_are_the_same():
    net = Positional().eval()
    retrofit(net, RetrofitPlan("levels.0", mask="~arg:1"), (IMAGE, 1 - MASK))
    liven(net)
    assert_equal(net(IMAGE, known=1 - MASK), net(IMAGE, 1 - MASK))


def test_what_inspect_finds_can_be_planned():
    net = Plain().eval()
    found = inspect(net, (IMAGE,), example_kwargs=KWARG)
    assert found.levels == (
        Level("levels.0", 3, 6, 2, (12, 16), "nchw", "levels.0"),
        Level("levels.1", 6, 10, 4, (6, 8), "nchw", "levels.1"),
    )
    assert RetrofitPlan(found.levels) == RetrofitPlan(["levels.0", "levels.1"])
    report = retrofit(net, RetrofitPlan(found.levels, mask="kwarg:mask"), (IMAGE,), example_kwargs=KWARG)
    assert report.levels == found.levels
    with pytest.raises(ConfigError, match="no image"):
        inspect(net, (3,))


def test_a_checkpointed_stage_follows_disabled():
    net = Checkpointed()
    retrofit(net, CASES["checkpointed"].plan, (BOTH,))
    liven(net)
    with disabled(net):
        loss = net(BOTH).square().mean()
    loss.backward()
    assert all(p.grad is None for n, p in net.named_parameters() if "kdinpaint_filler" in n)


@pytest.mark.parametrize("filler", ["parallel", "serial"])
@pytest.mark.parametrize("attention", [None, "fuse"])
def test_the_reference_network_is_its_plain_form_with_retrofit(filler, attention):
    """InpaintingNet with fillers equals its plain form with retrofit, bit for bit, with the same weights."""
    own = InpaintingNet(channels=(8, 16), filler=filler, attention=attention)
    for block in own.encoder.fillers:
        nn.init.normal_(block.exit.weight)
    host = InpaintingNet(channels=(8, 16), filler="none", attention=attention)
    host.load_state_dict({k: v for k, v in own.state_dict().items() if not k.startswith("encoder.fillers.")})
    image, mask = IMAGE[..., :22, :29], random_mask(2, 22, 29)
    x, _ = host.prepare(image, mask)
    retrofit(host.encoder, RetrofitPlan(["levels.*"], mask="input:-1", mode=filler), (x,))
    for level, block in zip(host.encoder.levels, own.encoder.fillers, strict=True):
        level.kdinpaint_filler.load_state_dict(block.state_dict())
    assert_equal(host(image, mask), own(image, mask))
    for net in (own, host):
        net(image, mask).square().mean().backward()
    gradients = [[p.grad for p in net.decoder.parameters()] for net in (own, host)]
    assert_equal(gradients[0], gradients[1])
    for level, block in zip(host.encoder.levels, own.encoder.fillers, strict=True):
        assert_equal(
            [p.grad for p in level.kdinpaint_filler.parameters()],
            [p.grad for p in block.parameters()],
        )


def test_attributes_are_those_of_the_stage():
    net = installed()
    stage = net.levels[0]
    assert len(stage) == 4
    assert stage[0] is next(iter(stage)) is net.get_submodule("levels.0.0")
    stage.base.switch = False
    stage.switch = True
    assert stage.base.switch
    assert "switch" not in stage.__dict__
    stage.note = "of the wrapper"
    assert not hasattr(stage.base, "note")
    with pytest.raises(AttributeError, match="nothing"):
        stage.nothing  # noqa: B018


def test_one_graph_for_all_sizes():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.GELU(), nn.Conv2d(6, 3, 4, 2, 1)).eval()
    retrofit(net, RetrofitPlan([("0", "1"), "2"]), (BOTH,))
    liven(net)
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(net, (BOTH,), dynamic_shapes=(axes,)).module()
    for size in ((2, 24, 32), (1, 40, 64), (3, 25, 38)):
        x = torch.cat([torch.rand(size[0], 3, *size[1:]), random_mask(*size).float()], 1)
        torch.testing.assert_close(graph(x), net(x), rtol=1e-4, atol=1e-5)


def test_compiled_once_for_all_masks():
    net = liven(installed())
    masks = [random_mask(2, 24, 32, seed=seed).float() for seed in range(5)]
    expected = [net(IMAGE, mask=mask) for mask in masks]
    for part in (net, net.levels[0]):
        torch.compiler.reset()
        counter = CompileCounter()
        part.compile(backend=counter, fullgraph=True)
        found = [net(IMAGE, mask=mask) for mask in masks]
        part._compiled_call_impl = None
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert 1 <= counter.frame_count <= 2
    with disabled(net):
        plain = net(IMAGE, mask=masks[0])
    assert not torch.equal(plain, net(IMAGE, mask=masks[0]))


@pytest.mark.parametrize("levels", [["encoder.*", "encoder"], ["encoder.0", ("encoder.0", "encoder.1")]], ids=str)
def test_levels_inside_of_levels(levels):
    net = nn.ModuleDict({"encoder": nn.Sequential(down(4, 6), down(6, 8)), "head": nn.Conv2d(8, 3, 1)})
    net = nn.Sequential(OrderedDict(net.items())).eval()
    host, before, modules = copy.deepcopy(net), net(BOTH), list(map(id, net.modules()))
    report = retrofit(net, RetrofitPlan(levels), (BOTH,))
    assert_equal(net(BOTH), before)
    assert list(host.state_dict()) == [key for key in net.state_dict() if "kdinpaint_filler" not in key]
    state = copy.deepcopy(liven(net).state_dict())
    after = net(BOTH)
    net.load_state_dict(host.state_dict())
    assert_equal(net(BOTH), after)
    liven(net).load_state_dict(state)
    assert_equal(net(BOTH), after)
    net(BOTH).sum().backward()
    stages = [m.kdinpaint_filler for m in net.modules() if isinstance(m, FilledStage)]
    assert len(stages) == len(report.levels)
    assert all(stage.exit.weight.grad is not None for stage in stages)
    unretrofit(net)
    assert list(map(id, net.modules())) == modules
    assert_equal(net(BOTH), before)


def test_a_submodule_is_a_host_as_well():
    net = nn.Sequential(down(4, 4), nn.Sequential(down(4, 6), nn.Conv2d(6, 3, 1))).eval()
    before = net(BOTH)
    retrofit(net[1], RetrofitPlan("0", mask=lambda args, kwargs: MASK), (net[0](BOTH),))
    assert not torch.equal(liven(net)(BOTH), before)
    with disabled(net):
        assert_equal(net(BOTH), before)
    set_trainable(net, "fillers")
    assert sum(p.requires_grad for p in net.parameters()) == len(filler_state_dict(net))
    unretrofit(net)
    assert_equal(net(BOTH), before)
    assert all(p.requires_grad for p in net.parameters())
