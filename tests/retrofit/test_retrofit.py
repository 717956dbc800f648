"""What retrofit refuses, how it finds masks and names, and what holds beside the forward pass."""

import copy
import gc
import random
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from harness import assert_equal, random_mask
from retrofit_hosts import BOTH, CASES, IMAGE, MASK, Checkpointed, Lists, Plain, Positional, Reused, down, up
from torch import Tensor, nn

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

KWARG = {"mask": MASK}
PLAN = RetrofitPlan(["levels.*"], mask="kwarg:mask")


def installed(plan: RetrofitPlan = PLAN, **options: Any) -> Plain:
    net = Plain().eval()
    retrofit(net, plan, (IMAGE,), example_kwargs=KWARG, **options)
    return net


def liven(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, FilledStage):
            nn.init.normal_(module.kdinpaint_filler.exit.weight)
    return net


class Broken(Plain):
    """Calls its levels through a plain list, past the module tree."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = list(self.levels)

    def forward(self, image: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return up(self.head(self.hidden[1](self.hidden[0](image))), image)


REFUSED = {
    "no such name": (Plain, ["levls.0"], {}, "no module is called 'levls.0'. Did you mean 'levels.0'"),
    "no such pattern": (Plain, ["enc.*"], {}, "inspect"),
    "ambiguous end": (Plain, ["0"], {}, "write out the one that is meant"),
    "never called": (Plain, ["levels"], {}, "never called.*levels.0, levels.1"),
    "wrong order": (Plain, [("levels.1", "levels.0")], {}, "order of running"),
    "pair of many": (Plain, [("levels.*", "head")], {}, "one module each"),
    "ends twice": (Plain, ["levels.1", ("levels.0", "levels.1")], {}, "two levels end with"),
    "past the tree": (Broken, ["levels.0"], {}, "without going through the place.*as it was before"),
    "layout": (Plain, ["levels.0"], {"layout": "nwhc"}, "layout is 'nwhc'"),
    "output": (Plain, ["levels.0"], {"outputs": 3}, "outputs selects"),
    "input": (Plain, ["levels.0"], {"inputs": "x"}, "inputs selects"),
    "mask place": (Plain, ["levels.0"], {"mask": "kwarg:hole"}, "finds nothing"),
    "mask none": (Plain, ["levels.0"], {"mask": lambda args, kwargs: None}, "has no mask"),
    "mask small": (Plain, ["levels.0"], {"mask": lambda args, kwargs: MASK[..., ::8, ::8]}, "larger than the mask"),
    "mask key": (Plain, ["levels.0"], {"mask": "key:mask"}, "dict with that key"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_and_leaves_the_host_alone(name):
    build, levels, options, message = REFUSED[name]
    net = build()
    before, tree = copy.deepcopy(net.state_dict()), list(map(id, net.modules()))
    seed = torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        retrofit(net, RetrofitPlan(levels, **{"mask": "kwarg:mask", **options}), (IMAGE,), example_kwargs=KWARG)
    if name != "past the tree":  # found out after the fillers were drawn
        assert torch.equal(torch.get_rng_state(), seed)
    assert list(map(id, net.modules())) == tree
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(m.training for m in net.modules())
    assert_equal(net.state_dict(), before)


def test_refuses_what_is_no_host():
    net = installed()
    with pytest.raises(ConfigError, match=r"already, at levels.0, levels.1. Call kdinpaint.unretrofit"):
        retrofit(net, PLAN, (IMAGE,), example_kwargs=KWARG)
    with pytest.raises(ConfigError, match="retrofitted already"):
        retrofit(nn.Sequential(net), PLAN, (IMAGE,), example_kwargs=KWARG)
    unretrofit(net)
    with pytest.raises(ConfigError, match="not retrofitted"):
        unretrofit(net)
    with pytest.raises(ConfigError, match="not retrofitted"), disabled(net):
        pass
    with pytest.raises(ConfigError, match="example is missing"):
        retrofit(net, PLAN)
    with pytest.raises(ConfigError, match=r"does not run on the example: TypeError"):
        retrofit(net, PLAN, (IMAGE, MASK, MASK))
    with pytest.raises(ConfigError, match="DataParallel"):
        retrofit(nn.DataParallel(net), PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match="OptimizedModule"):
        retrofit(torch.compile(net), PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match=r"expected a torch.nn.Module"):
        retrofit(3, PLAN, (IMAGE,))
    with pytest.raises(ConfigError, match="lazy"):
        retrofit(nn.Sequential(nn.LazyConv2d(3, 1)), RetrofitPlan("0"), (IMAGE,))
    with pytest.raises(ConfigError, match=r"several features.*outputs=\{'encoder': \(0,\)"):
        retrofit(Lists(), RetrofitPlan("encoder"), (BOTH,))
    with pytest.raises(ShapeError, match="channel 7"):
        retrofit(net, RetrofitPlan("levels.0", mask="input:7"), (IMAGE,))


@pytest.mark.parametrize(
    "options",
    [
        {"levels": []},
        {"levels": [3]},
        {"levels": [("a", "b", "c")]},
        {"levels": ["a"], "mask": "channel 3"},
        {"levels": ["a"], "mask": 3},
        {"levels": ["a"], "mode": "beside"},
        {"levels": ["a"], "conv": "deformable"},
        {"levels": ["a"], "modulation": "tanh"},
        {"levels": ["a"], "hidden_channels": 0},
        {"levels": ["a"], "max_offset": -1.0},
    ],
    ids=str,
)
def test_plans_that_cannot_work(options):
    with pytest.raises(ConfigError):
        RetrofitPlan(**options)


MASKS = {
    "input:-1": lambda m: ((torch.cat([IMAGE, m], 1),), {}),
    "~input:3": lambda m: ((torch.cat([IMAGE, 1 - m], 1),), {}),
    "arg:1": lambda m: ((IMAGE, m.bool()), {}),
    "~arg:1": lambda m: ((IMAGE,), {"mask": ~m.bool()}),
    "kwarg:mask": lambda m: ((IMAGE, 2 * m[:, 0] - 1), {}),
    "~kwarg:mask": lambda m: ((), {"image": IMAGE, "mask": 255 * (1 - m).repeat(1, 3, 1, 1)}),
    "key:mask": lambda m: (({"mask": m.int()},), {}),
}


@pytest.mark.parametrize("spec", MASKS)
def test_masks_are_found_in_either_polarity(spec):
    from kdinpaint.retrofitting.masks import MaskSource

    class Host(nn.Module):
        def forward(self, image, mask=None):
            return image

    source = MaskSource(spec, Host())
    args, kwargs = MASKS[spec](MASK)
    if spec == "~kwarg:mask":
        with pytest.raises(AssertionError):  # three equal channels: inverted before they are joined
            assert_equal(source(args, kwargs), ~MASK.bool())
    assert_equal(source(args, kwargs), MASK.bool())


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


def test_data_parallel_processes(tmp_path):
    """One process is enough to see that the reducer finds every parameter and that the mask passes through."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this build of PyTorch has no gloo")
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
