"""adaptive_conv2d as a custom operator: registration, what is asked for, higher orders, pieces, transforms."""

import shutil

import pytest
import torch
from cpu_backends import FORMS
from harness import random_mask, seeded
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, vmap
from torch.profiler import profile

from kdinpaint import AdaptiveConv2d, adaptive_conv2d
from kdinpaint._core.errors import ConfigError
from kdinpaint.ops import adaptive_conv2d_backend, cpp, pieces, products, tiled
from kdinpaint.ops.cpp import build
from kdinpaint.ops.geometry import Geometry

GEOMETRY = Geometry.make(3, 1, 1)
NAMES = ("input", "weight", "offset", "kernel", "bias")


def arguments(batch=2, channels=3, outputs=4, size=(5, 6), dtype=torch.float64, seed=0):
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return (
        draw(batch, channels, *size),
        draw(outputs, channels, 3, 3),
        1.5 * draw(batch, 18, *size),
        draw(batch, 9, *size),
    )


# PyTorch's own tracing looks at .grad of what it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
def test_registration(part, layout):
    leaves = [t.to(memory_format=layout).requires_grad_() for t in arguments(dtype=torch.float32)]
    region = random_mask(2, 5, 6) if part else None
    geometry = ([1, 1], [1, 1], [1, 1])
    bias = torch.randn(4, requires_grad=True)
    torch.library.opcheck(torch.ops.kdinpaint.adaptive_conv.default, (*leaves, bias, region, *geometry, "auto"))
    torch.library.opcheck(
        torch.ops.kdinpaint.adaptive_conv_backward.default,
        (
            torch.randn(2, 4, 5, 6),
            *(t.detach() for t in leaves),
            region,
            *geometry,
            [True, False, True, True, True],
            "auto",
        ),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wanted", range(5), ids=NAMES)
def test_only_wanted_gradients_are_computed(wanted, form, monkeypatch):
    asked, backend = [], "cpp" if form is cpp else "torch"
    original = form.backward
    monkeypatch.setattr(form, "backward", lambda *a: asked.append(a[-1]) or original(*a))
    tensors = (*arguments(), torch.ones(4, dtype=torch.float64))
    whole = [t.clone().requires_grad_() for t in tensors]
    torch.autograd.backward(adaptive_conv2d(*whole, padding=1, backend=backend).sum())
    one = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
    torch.autograd.backward(adaptive_conv2d(*one, padding=1, backend=backend).sum())
    assert asked == [(True,) * 5, tuple(i == wanted for i in range(5))]
    torch.testing.assert_close(one[wanted].grad, whole[wanted].grad)
    assert all(t.grad is None for i, t in enumerate(one) if i != wanted)


@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
def test_gradients_with_a_graph_are_the_same(part):
    leaves = [t.requires_grad_() for t in arguments()]
    region = random_mask(2, 5, 6) if part else None
    output = adaptive_conv2d(*leaves, padding=1, region=region)
    slope = torch.randn(output.shape, generator=seeded(3), dtype=output.dtype)
    plain = torch.autograd.grad(output, leaves, slope, retain_graph=True)
    graph = torch.autograd.grad(output, leaves, slope, create_graph=True)
    torch.testing.assert_close(graph, plain)
    assert all(g.requires_grad for g in graph)
    assert not any(g.requires_grad for g in plain)


def test_second_derivative_reaches_what_the_first_came_through():
    # The offsets depend on the input: each path must be counted once.
    conv = AdaptiveConv2d(2, 2, 3, padding=1, dtype=torch.float64)
    torch.nn.init.normal_(conv.offset_conv.weight, std=0.3)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=seeded(1)).requires_grad_()
    assert torch.autograd.gradgradcheck(conv, (x,), atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize(("block", "tile"), [(1, 1), (60, 100), (10**6, 200), (130, 10**6)])
def test_pieces_of_any_size_give_the_same(block, tile, part, form, monkeypatch):
    tensors = arguments(batch=3)
    region = random_mask(3, 5, 6) if part else None
    slope = torch.randn(3, 4, 5, 6, generator=seeded(2), dtype=torch.float64)

    def run():
        value = form.forward(*tensors, torch.ones(4, dtype=torch.float64), region, GEOMETRY)
        return value, form.backward(slope, *tensors, region, GEOMETRY, (True,) * 5)

    expected = run()
    monkeypatch.setattr(pieces, "BLOCK", block)
    monkeypatch.setattr(pieces, "TILE", tile)
    torch.testing.assert_close(run(), expected)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_read_that_was_not_written(form, monkeypatch):
    tensors = arguments(dtype=torch.float32)
    region = random_mask(2, 5, 6)
    slope = torch.randn(2, 4, 5, 6, generator=seeded(2))
    expected = [form.backward(slope, *tensors, r, GEOMETRY, (True,) * 5) for r in (None, region)]
    values = [form.forward(*tensors, None, r, GEOMETRY) for r in (None, region)]
    empty, empty_like, new_empty = torch.empty, torch.empty_like, torch.Tensor.new_empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: poisoned(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poisoned(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poisoned(new_empty(*a, **k)))
    torch.testing.assert_close([form.forward(*tensors, None, r, GEOMETRY) for r in (None, region)], values)
    torch.testing.assert_close(
        [form.backward(slope, *tensors, r, GEOMETRY, (True,) * 5) for r in (None, region)], expected
    )


def poisoned(tensor):
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_over_many_positions_keep_their_precision(dtype, form, monkeypatch):
    if form is cpp:
        monkeypatch.setattr(products, "_has_products", lambda dtype: False)
    # 4096 terms: summed in low precision they would stall far below the true value.
    x, weight = torch.ones(1, 1, 64, 64, dtype=dtype), torch.ones(1, 1, 1, 1, dtype=dtype)
    offset, kernel = torch.zeros(1, 2, 64, 64), torch.ones(1, 1, 64, 64)
    slope = torch.ones(1, 1, 64, 64, dtype=dtype)
    wanted = (False, True, False, False, True)
    found = form.backward(slope, x, weight, offset, kernel, None, Geometry.make(1), wanted)
    for grad in (found[1], found[4]):
        assert grad.dtype == dtype
        assert abs(grad.item() / 4096 - 1) < 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_processors_without_16_bit_products_compute_in_float32(dtype, form, monkeypatch):
    monkeypatch.setattr(products, "_has_products", lambda dtype: False)
    x, weight, offset, kernel = arguments(batch=1, channels=64, outputs=8, size=(9, 9), dtype=torch.float32)
    x, weight, slope = x.to(dtype), weight.to(dtype), torch.randn(1, 8, 9, 9, generator=seeded(5)).to(dtype)

    def run(x, weight, slope):
        value = form.forward(x, weight, offset, kernel, weight[:, 0, 0, 0], None, GEOMETRY)
        return value, *form.backward(slope, x, weight, offset, kernel, None, GEOMETRY, (True,) * 5)

    found, exact = run(x, weight, slope), run(x.float(), weight.float(), slope.float())
    assert [t.dtype for t in found] == [dtype] * 3 + [torch.float32] * 2 + [dtype]
    for value, expected in zip(found, exact, strict=True):  # one rounding, that of the result
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("capability", ["AVX512", "AVX2", "DEFAULT"])
def test_either_matrix_product(capability, monkeypatch):
    tensors, slope = arguments(dtype=torch.float32), torch.randn(2, 4, 5, 6, generator=seeded(5))

    def run():
        value = tiled.forward(*tensors, None, None, GEOMETRY)
        return value, tiled.backward(slope, *tensors, None, GEOMETRY, (True,) * 5)

    expected = run()
    products._has_fast_onednn.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    found = run()
    products._has_fast_onednn.cache_clear()
    torch.testing.assert_close(found, expected)


def test_columns_are_never_whole():
    x, weight, offset, kernel = arguments(batch=1, channels=64, outputs=64, size=(96, 96), dtype=torch.float32)
    columns = 9 * 64 * 96 * 96 * 4
    with profile(profile_memory=True, acc_events=True) as recorded, torch.no_grad():
        adaptive_conv2d(x, weight, offset, kernel, padding=1)
    largest = max(event.cpu_memory_usage for event in recorded.events() if event.name == "aten::empty")
    assert largest < columns / 4


def test_says_which_backend_runs(monkeypatch):
    choice = adaptive_conv2d_backend(*arguments(dtype=torch.float32))
    assert choice == (("cpp", None) if build.missing() is None else ("torch", build.missing()))
    monkeypatch.setattr(build, "missing", lambda: "there is no compiler g++")
    assert adaptive_conv2d_backend(*arguments(dtype=torch.float32)) == ("torch", "there is no compiler g++")
    for backend in ("triton", "cpp"):
        with pytest.raises(ConfigError, match=rf"backend='{backend}' cannot run here: .*Use backend='auto'."):
            adaptive_conv2d(*arguments(), padding=1, backend=backend)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="TorchInductor compiles with a C++ compiler")
def test_inductor_compiles_both_passes_once_for_all_sizes():
    torch.compiler.reset()
    graphs = CompileCounterWithBackend("inductor")
    compiled = torch.compile(
        lambda *t: adaptive_conv2d(*t, padding=1).relu(), fullgraph=True, dynamic=True, backend=graphs
    )
    for size in ((5, 6), (9, 7)):
        leaves = [t.requires_grad_() for t in arguments(size=size, dtype=torch.float32)]
        value, expected = compiled(*leaves), adaptive_conv2d(*leaves, padding=1).relu()
        torch.testing.assert_close(value, expected)
        found, wanted = (torch.autograd.grad(out.square().sum(), leaves) for out in (value, expected))
        torch.testing.assert_close(found, wanted)
    assert graphs.frame_count == 1


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_is_a_loop_over_calls():
    x, weight, offset, kernel = (torch.stack([a, b]) for a, b in zip(arguments(), arguments(seed=1), strict=True))
    mapped = vmap(lambda *t: adaptive_conv2d(*t, padding=1))(x, weight, offset, kernel)
    for i in range(2):
        torch.testing.assert_close(mapped[i], adaptive_conv2d(x[i], weight[i], offset[i], kernel[i], padding=1))


def test_functional_call_is_differentiable_in_the_parameters():
    conv = AdaptiveConv2d(2, 3, 3, padding=1)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in conv.named_parameters()}
    x = torch.randn(1, 2, 5, 5)
    functional_call(conv, parameters, (x,)).square().sum().backward()
    conv(x).square().sum().backward()
    for name, parameter in conv.named_parameters():
        torch.testing.assert_close(parameters[name].grad, parameter.grad)
