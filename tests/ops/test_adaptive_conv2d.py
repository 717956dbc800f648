"""adaptive_conv2d against torchvision, a plain loop and torch.nn.functional.conv2d, over all geometries."""

from typing import ClassVar

import pytest
import torch
from adaptive_problems import problem, problems, small, with_gradients
from cpu_backends import CPU_BACKENDS, needs_compiler
from harness import SEEDS, Contract, assert_equal, random_mask, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import adaptive_conv2d_loop
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from kdinpaint import adaptive_conv2d
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops import tiled
from kdinpaint.ops.cpp.work import Work

BACKENDS = [*CPU_BACKENDS, "reference", "torchvision"]


def count_samples(monkeypatch):
    """How many samples are located, and how many gathered, from now on, by either form."""
    located, gathered = [], []
    table, gather, run = tiled.sampling_table, tiled.gather, Work.run

    def counted_table(*arguments):
        found = table(*arguments)
        located.append(len(found.first))
        return found

    def counted_gather(index, *rest):
        gathered.append(len(index))
        return gather(index, *rest)

    def counted_run(work, name):
        if name in ("forward", "backward"):  # which go through the positions that they are given once
            located.append(9 * work.count)
            gathered.append(9 * work.count)
        return run(work, name)

    monkeypatch.setattr(tiled, "sampling_table", counted_table)
    monkeypatch.setattr(tiled, "gather", counted_gather)
    monkeypatch.setattr(Work, "run", counted_run)
    return located, gathered


class TestAdaptiveConv2dFunction(Contract):
    smallest = 1
    errors: ClassVar = {
        "weight": (ShapeError, r"weight is .*expected \(C_out, C_in, K, K\)", lambda t: t.broken(weight=torch.ones(3))),
        "stride": (ConfigError, "stride and dilation must be at least 1", lambda t: t.broken(stride=0)),
        "padding": (ConfigError, "padding at least 0", lambda t: t.broken(padding=-1)),
        "channels": (ShapeError, "input has 5 channels.*expected 2", lambda t: t.broken(input=torch.ones(2, 5, 4, 5))),
        "not an image": (ShapeError, "expected a floating-point", lambda t: t.broken(input=torch.ones(2, 4, 5))),
        "integers": (ShapeError, "floating-point", lambda t: t.broken(input=torch.ones(2, 2, 4, 5, dtype=torch.int64))),
        "no output": (ShapeError, "has no output position", lambda t: t.broken(padding=0, dilation=3)),
        "offset": (ShapeError, r"offset is .*expected shape \(2, 18, 4, 5\)", lambda t: t.broken(offset=torch.ones(1))),
        "kernel": (ShapeError, r"kernel is .*\(2, 9, 4, 5\)", lambda t: t.broken(kernel=torch.ones(2, 18, 4, 5))),
        "region": (ShapeError, r"region is .*\(2, 1, 4, 5\)", lambda t: t.broken(region=torch.ones(2, 1, 4, 4))),
        "bias": (ShapeError, r"bias is .*expected shape \(3,\)", lambda t: t.broken(bias=torch.ones(2))),
        "backend": (ConfigError, "backend is 'cuda'; expected one of 'auto'", lambda t: t.broken(backend="cuda")),
        "devices": (ShapeError, "on cpu, meta; expected one", lambda t: t.broken(bias=torch.ones(3, device="meta"))),
    }

    def broken(self, **change):
        names = ("input", "weight", "offset", "kernel", "bias")
        tensors, (stride, padding, dilation) = small(dtype=torch.float32)
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        return adaptive_conv2d(**{**dict(zip(names, tensors, strict=True)), **geometry, **change})

    def make(self, dtype=torch.float32):
        weight, bias = small(dtype=dtype)[0][1::3]
        return lambda x, offset, kernel: adaptive_conv2d(x, weight, offset, kernel, bias, padding=1)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        geometry = ((3, 3), (height, width), (1, 1), (1, 1), (1, 1))
        (x, _, offset, kernel, _), _ = problem(batch, 2, 3, *geometry, seed=seed, dtype=dtype)
        return x, offset, kernel

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def oracle(self, subject, x, offset, kernel):
        weight, bias = small()[0][1::3]
        return adaptive_conv2d_loop(x, weight, offset, kernel, bias, (1, 1), (1, 1), (1, 1))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(problems())
def test_equals_torchvision_in_value_and_gradient(backend, case):
    tensors, geometry = case
    value, gradients = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry, backend=backend), tensors)
    expected, wanted = with_gradients(lambda x, w, o, v, b: deform_conv2d(x, o, w, b, *geometry, mask=v), tensors)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@given(problems(reaches=(0.6, 4.0), largest=4))
def test_equals_the_loop_in_value_and_gradient(backend, case):
    tensors, geometry = case
    value, gradients = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry, backend=backend), tensors)
    expected, wanted = with_gradients(lambda *t: adaptive_conv2d_loop(*t, *geometry), tensors)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradients, wanted)


@given(problems(reaches=(0.0,)))
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_conv2d_for_constant_kernel_and_no_offset(backend, case):
    (x, weight, offset, kernel, bias), geometry = case
    ours = adaptive_conv2d(x, weight, offset, torch.ones_like(kernel), bias, *geometry, backend=backend)
    torch.testing.assert_close(ours, F.conv2d(x, weight, bias, *geometry))


@given(problems(), st.booleans())
@pytest.mark.parametrize("backend", ["torch", "reference", "torchvision"])
def test_backends_agree(backend, case, use_region):
    tensors, geometry = case
    region = random_mask(tensors[2].shape[0], *tensors[2].shape[-2:]) if use_region else None
    value, gradients = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry, region=region), tensors)
    other, theirs = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry, region=region, backend=backend), tensors)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(theirs, gradients)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0], ids=["empty", "part", "full"])
@pytest.mark.parametrize("backend", BACKENDS)
@given(case=problems(), kind=st.sampled_from([torch.bool, torch.float32]))
def test_region_is_dense_times_region_with_exact_zeros(backend, share, case, kind):
    tensors, geometry = case
    offset = tensors[2]
    region = torch.rand(offset.shape[0], 1, *offset.shape[-2:], generator=seeded(3)) < share
    inside = region.to(torch.float64)
    cotangent = torch.randn(offset.shape[0], 1, *offset.shape[-2:], generator=seeded(4), dtype=torch.float64)
    cotangent = cotangent.expand(-1, tensors[1].shape[0], -1, -1)

    def partial(*t):
        return adaptive_conv2d(*t, *geometry, region=region.to(kind), backend=backend)

    value, gradients = with_gradients(partial, tensors, cotangent)
    dense, wanted = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry) * inside, tensors, cotangent)
    torch.testing.assert_close(value, dense)
    torch.testing.assert_close(gradients, wanted)
    assert not value[(~region).expand_as(value)].any()
    assert not gradients[2][(~region).expand_as(offset)].any()
    assert not gradients[3][(~region).expand_as(tensors[3])].any()


@pytest.mark.parametrize("region", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize("geometry", [((3, 3), (1, 1), (1, 1)), ((2, 3), (2, 1), (0, 1))], ids=["3x3", "2x3 strided"])
def test_gradients_of_first_and_second_order(geometry, region):
    kernel, stride, padding = geometry
    tensors, options = problem(2, 1, 2, kernel, (2, 2), stride, padding, (1, 1), reach=1.2)
    where = random_mask(2, *tensors[2].shape[-2:]) if region else None
    leaves = [t.requires_grad_() for t in tensors]
    assert gradcheck(lambda *t: adaptive_conv2d(*t, *options, region=where), leaves)
    assert gradgradcheck(lambda *t: adaptive_conv2d(*t, *options, region=where), leaves, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own, of forward mode
@pytest.mark.parametrize("region", [False, True])
def test_forward_mode_derivatives_are_right_or_refused(region):
    (x, weight, offset, kernel, _), options = small()
    where = random_mask(2, *offset.shape[-2:]) if region else None
    step = torch.randn(x.shape, dtype=x.dtype, generator=seeded(1))

    def call(x, backend="auto"):
        return adaptive_conv2d(x, weight, offset, kernel, None, *options, region=where, backend=backend)

    _, found = torch.func.jvp(call, (x,), (step,))
    torch.testing.assert_close(found, call(step))  # linear in x
    with pytest.raises(ConfigError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: call(x, "torch"), (x,), (step,))


def test_unmoved_taps_on_the_rim_know_where_the_image_is():
    # One pixel, padding 1: the outer taps lie exactly at -1, where moving towards the image must pay.
    x, weight = torch.full((1, 1, 1, 1), 1.5), torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 1, 3, requires_grad=True)
    adaptive_conv2d(x, weight, offset, torch.ones(1, 1, 1, 3), padding=(0, 1)).sum().backward()
    assert offset.grad[0, 1, 0].tolist() == [1.5, -1.5, 0.0]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("far", [1e6, -1e6, 3e38, float("inf"), -float("inf")])
def test_samples_far_outside_are_zero_with_finite_gradients(far, backend):
    (x, weight, offset, kernel, bias), _ = small(dtype=torch.float32)
    offset = torch.full_like(offset, far)
    tensors = (x, weight, offset, kernel, bias)
    value, gradients = with_gradients(lambda *t: adaptive_conv2d(*t, padding=1, backend=backend), tensors)
    assert_equal(value, bias[:, None, None].expand_as(value))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert not gradients[2].any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("region", [False, True], ids=["dense", "region"])
def test_nan_offsets_touch_their_own_outputs_only(region, backend):
    (x, weight, offset, kernel, bias), _ = small()
    where = torch.ones(2, 1, 4, 5, dtype=torch.bool) if region else None
    clean = adaptive_conv2d(x, weight, offset, kernel, bias, padding=1, region=where, backend=backend)
    offset[1, 5, 2, 3] = float("nan")
    value = adaptive_conv2d(x, weight, offset, kernel, bias, padding=1, region=where, backend=backend)
    assert bool(value[1, :, 2, 3].isnan().all())
    value[1, :, 2, 3] = clean[1, :, 2, 3]
    assert_equal(value, clean)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_nan_offsets_outside_the_region_reach_nothing(backend):
    tensors, _ = small()
    region = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    region[1, 0, 2, 3] = False
    expected, wanted = with_gradients(
        lambda *t: adaptive_conv2d(*t, padding=1, region=region, backend=backend), tensors
    )
    tensors[2][1, :, 2, 3] = float("nan")
    value, gradients = with_gradients(
        lambda *t: adaptive_conv2d(*t, padding=1, region=region, backend=backend), tensors
    )
    assert_equal(value, expected)
    assert_equal(gradients, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_kernels_outside_the_region_give_zero(backend):
    (x, weight, offset, kernel, bias), _ = small()
    region = random_mask(2, 4, 5)
    kernel = torch.where(region, kernel, float("nan"))
    value = adaptive_conv2d(x, weight, offset, kernel, bias, padding=1, region=region, backend=backend)
    assert not value[(~region).expand_as(value)].any()
    assert bool(torch.isfinite(value).all())


@given(st.integers(2, 4), SEEDS)
def test_samples_do_not_see_each_other(batch, seed):
    tensors, _ = small(seed, batch)
    x, weight, offset, kernel, bias = tensors
    whole = adaptive_conv2d(*tensors, padding=1)
    alone = [
        adaptive_conv2d(x[i : i + 1], weight, offset[i : i + 1], kernel[i : i + 1], bias, padding=1)
        for i in range(batch)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend):
    tensors, _ = small()
    expected, wanted = with_gradients(lambda *t: adaptive_conv2d(*t, padding=1, backend=backend), tensors)

    def strided(t):
        wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)
        wide[..., ::2] = t
        return wide[..., ::2]

    layouts = {
        "channels last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
        "strided": strided,
        "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.dim() == 4 else t,
    }
    for name, layout in layouts.items():
        run = lambda *t: adaptive_conv2d(*map(layout, t), padding=1, backend=backend)  # noqa: B023, E731 - used at once
        value, gradients = with_gradients(run, tensors)
        torch.testing.assert_close(value, expected, msg=name)
        torch.testing.assert_close(gradients, wanted, msg=name)


def test_expanded_arguments_work():
    (x, weight, offset, kernel, bias), _ = small()
    one, two, three = (t[:1].expand(2, -1, -1, -1) for t in (x, offset, kernel))
    value = adaptive_conv2d(one, weight, two, three, bias, padding=1)
    assert_equal(value[0], value[1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_positions_exact(backend):
    # Coordinates up to 300 rounded to bfloat16 would be off by a pixel: on noise that is an error of order one.
    tensors, geometry = problem(1, 2, 2, (3, 3), (3, 300), (1, 1), (1, 1), (1, 1), reach=2.0, dtype=torch.float32)
    expected, wanted = with_gradients(lambda *t: adaptive_conv2d(*t, *geometry), tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaves = [t.clone().requires_grad_() for t in tensors]
        value = adaptive_conv2d(*leaves, *geometry, backend=backend)
    gradients = torch.autograd.grad(value, leaves, torch.randn(value.shape, generator=seeded(7)).to(value.dtype))
    assert value.dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in gradients)
    for got, want in ((value.float(), expected), (gradients[0], wanted[0]), (gradients[2], wanted[2])):
        assert ((got - want).norm() / want.norm()).item() < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_low_precision_input_with_float32_offsets(dtype):
    (x, weight, offset, kernel, bias), _ = small(dtype=torch.float32)
    value = adaptive_conv2d(x.to(dtype), weight.to(dtype), offset, kernel, bias.to(dtype), padding=1)
    assert value.dtype == dtype
    expected = adaptive_conv2d(x, weight, offset, kernel, bias, padding=1)
    torch.testing.assert_close(value.float(), expected, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_region_compiles_whole_with_any_size(dynamic):
    # The dense form is compiled by the contract above; aot_eager for the reason given there.
    torch.compiler.reset()

    def run(x, weight, offset, kernel, bias, where):
        return adaptive_conv2d(x, weight, offset, kernel, bias, 2, 1, region=where)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((6, 7), (9, 5)):
        tensors, _ = problem(2, 2, 3, (3, 3), size, (2, 2), (1, 1), (1, 1))
        where = random_mask(2, *tensors[2].shape[-2:])
        expected, wanted = with_gradients(lambda *t: run(*t, where), tensors)  # noqa: B023 - used at once
        value, gradients = with_gradients(lambda *t: compiled(*t, where), tensors)  # noqa: B023 - used at once
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradients, wanted)
        assert not value[(~where).expand_as(value)].any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_work_is_proportional_to_the_region(backend, monkeypatch):
    tensors, _ = small()
    region = torch.zeros(2, 1, 4, 5)
    located, gathered = count_samples(monkeypatch)
    for cells in (0, 10, 20, 40):
        region.view(-1)[:cells] = 1
        located.clear(), gathered.clear()
        with_gradients(lambda *t: adaptive_conv2d(*t, padding=1, region=region, backend=backend), tensors)
        assert sum(located) == sum(gathered) == 2 * 9 * cells  # forward and backward


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_no_sample_is_computed_twice(backend, monkeypatch):
    tensors, _ = small()
    located, gathered = count_samples(monkeypatch)
    adaptive_conv2d(*tensors, padding=1, backend=backend)
    assert sum(located) == sum(gathered) == 2 * 9 * 20


@needs_compiler
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
def test_any_number_of_threads_gives_the_same_bits(threads, part):
    tensors, _ = problem(2, 17, 3, (3, 3), (9, 7), (1, 1), (1, 1), (1, 1), reach=3.0)
    region = random_mask(2, 9, 7) if part else None

    def run():
        return with_gradients(lambda *t: adaptive_conv2d(*t, padding=1, region=region, backend="cpp"), tensors)

    expected = run()
    torch.set_num_threads(threads)
    try:
        found = run()
    finally:
        torch.set_num_threads(1)
    assert_equal(found, expected)


def test_more_images_than_torchvision_takes_at_once_and_single_pixels():
    tensors, geometry = problem(33, 3, 2, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    expected = adaptive_conv2d(*tensors, *geometry, backend="reference")
    torch.testing.assert_close(adaptive_conv2d(*tensors, *geometry), expected)
    torch.testing.assert_close(adaptive_conv2d(*tensors, *geometry, backend="torchvision"), expected)


def test_no_gradient_is_kept_where_none_is_wanted():
    tensors, _ = small()
    assert adaptive_conv2d(*tensors, padding=1).grad_fn is None
    tensors[1].requires_grad_()
    adaptive_conv2d(*tensors, padding=1).sum().backward()
    assert tensors[0].grad is None
    assert tensors[1].grad is not None


def test_matches_torchvision_on_every_device(device):
    tensors, geometry = problem(2, 8, 16, (3, 3), (16, 20), (1, 1), (1, 1), (1, 1), dtype=torch.float32)
    x, weight, offset, kernel, bias = (t.to(device) for t in tensors)
    value = adaptive_conv2d(x, weight, offset, kernel, bias, *geometry)
    torch.testing.assert_close(
        value, deform_conv2d(x, offset, weight, bias, *geometry, mask=kernel), rtol=1e-3, atol=1e-4
    )
