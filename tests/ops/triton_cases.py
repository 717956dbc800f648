"""The Triton kernels against float64, natively where there is a GPU, else in the interpreter. Run by test_triton.py."""

import itertools
import os
from contextlib import contextmanager

import pytest
import torch
from harness import SEEDS, assert_equal, random_mask, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.reference import adaptive_conv2d_reference
from kdinpaint.ops.triton import columns, launch, unsupported
from kdinpaint.ops.triton.arguments import region_index
from kdinpaint.ops.triton.configs import Config

# Triton 3.6's interpreter does what NumPy 2.3 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
PATHS = {
    "fused": (launch.fused_forward, launch.fused_backward),
    "columns": (columns.forward, columns.backward),
}
ALL = (True, True, True, True)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}


def case(batch, channels, outputs, geometry, size, *, reach=1.5, seed=0, dtype=torch.float32):
    """Tensors of a geometry, the map enlarged until there is an output: (input, weight, offset, V, bias, grad)."""
    (kernel, _, padding, dilation), generator = geometry, seeded(seed)
    size = tuple(max(n, d * (k - 1) + 1 - 2 * p) for n, k, p, d in zip(size, kernel, padding, dilation, strict=True))
    output, taps = geometry.output_size(size), geometry.taps

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE)

    image, weight = draw(batch, channels, *size).to(dtype), draw(outputs, channels, *kernel).to(dtype)
    offset, scale = reach * draw(batch, 2 * taps, *output), draw(batch, taps, *output)
    return image, weight, offset, scale, draw(outputs).to(dtype), draw(batch, outputs, *output).to(dtype)


def small(seed=0, dtype=torch.float32):
    geometry = Geometry.make(3, 1, 1)
    return case(2, 3, 5, geometry, (4, 5), seed=seed, dtype=dtype), geometry


@contextmanager
def poisoned():
    """Fresh memory holds NaN, or numbers that no index may have."""
    kept = torch.empty, torch.empty_like

    def spoil(tensor):
        return tensor.fill_(float("nan") if tensor.is_floating_point() else 2**30)

    torch.empty, torch.empty_like = (lambda *a, _make=make, **k: spoil(_make(*a, **k)) for make in kept)
    try:
        yield
    finally:
        torch.empty, torch.empty_like = kept


@contextmanager
def blocks(config):
    """All kernels cut up like this."""
    kept = launch.choose
    launch.choose = columns.choose = kept if config is None else lambda *_: config
    try:
        yield
    finally:
        launch.choose = columns.choose = kept


def run(path, tensors, geometry, region=None, wanted=ALL, config=None):
    forward, backward = PATHS[path]
    image, weight, offset, scale, bias, grad = tensors
    with poisoned(), blocks(config):
        value = forward(image, weight, offset, scale, bias, region, geometry)
        return value, backward(grad, image, weight, offset, scale, region, geometry, wanted)


def reference(tensors, geometry, region=None):
    *leaves, bias, grad = (t.double().cpu() for t in tensors)
    leaves = [t.requires_grad_() for t in leaves]
    value = adaptive_conv2d_reference(*leaves, bias, geometry)
    if region is not None:
        value = torch.where(region.cpu() != 0, value, 0.0)
    return value.detach(), torch.autograd.grad(value, leaves, grad)


def assert_near(actual, expected, tolerance, what=""):
    error = (actual.double().cpu() - expected.double().cpu()).norm()
    assert error <= tolerance * expected.double().norm().cpu() + 1e-6, (what, error.item(), expected.norm().item())


def assert_all_near(found, expected, tolerance):
    assert_near(found[0], expected[0], tolerance, "value")
    for name, got, want in zip(("input", "weight", "offset", "kernel"), found[1], expected[1], strict=True):
        assert_near(got, want, tolerance, name)


@st.composite
def cases(draw):
    def pair(*options):
        return draw(st.sampled_from(options)), draw(st.sampled_from(options))

    kernel = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (2, 3), (5, 5)]))
    geometry = Geometry(kernel, pair(1, 2), pair(0, 1, 2), pair(1, 2))
    channels, outputs = draw(st.sampled_from([1, 3, 16, 20])), draw(st.sampled_from([1, 5, 16, 18]))
    size, reach = (draw(st.integers(1, 7)), draw(st.integers(1, 7))), draw(st.sampled_from([0.0, 0.6, 4.0]))
    return case(draw(st.integers(1, 3)), channels, outputs, geometry, size, reach=reach, seed=draw(SEEDS)), geometry


CONFIGS = st.sampled_from([None, Config(32, 16, 16, 4, 1, 64), Config(16, 16, 32, 4, 1, 4)])


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=10)
@given(cases(), st.sampled_from([None, 0.0, 0.4, 1.0]), st.sampled_from([torch.bool, torch.float32]), CONFIGS)
def test_equals_the_reference(path, problem, share, kind, config):
    tensors, geometry = problem
    offset = tensors[2]
    region = None
    if share is not None:
        inside = torch.rand(offset.shape[0], 1, *offset.shape[-2:], generator=seeded(3)) < share
        region = (inside.to(DEVICE) * 0.5).to(kind)
    found = run(path, tensors, geometry, region, config=config)
    assert_all_near(found, reference(tensors, geometry, region), TOLERANCE[torch.float32])
    if region is not None:
        outside = (region == 0).expand_as(found[0])
        assert not found[0][outside].any()
        assert not found[1][2][(region == 0).expand_as(offset)].any()
        assert not found[1][3][(region == 0).expand_as(tensors[3])].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", PATHS)
def test_half_precision_keeps_positions_exact(path, dtype):
    # Columns up to 200 rounded to 8 bits would be off by half a pixel: on noise that is an error of order one.
    geometry = Geometry.make((1, 3), 1, (0, 1))
    tensors = case(1, 20, 18, geometry, (1, 200), reach=2.0, dtype=dtype)
    found = run(path, tensors, geometry)
    assert_all_near(found, reference(tensors, geometry), TOLERANCE[dtype])
    assert [t.dtype for t in (found[0], *found[1])] == [dtype, dtype, dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_offsets_may_be_half_precision(dtype):
    tensors, geometry = small()
    tensors = (*tensors[:2], tensors[2].to(dtype), tensors[3].to(dtype), *tensors[4:])
    found = run("fused", tensors, geometry)
    assert_all_near(found, reference(tensors, geometry), 1e-2)
    assert [g.dtype for g in found[1]] == [torch.float32, torch.float32, dtype, dtype]


@pytest.mark.parametrize("region", [False, True], ids=["dense", "region"])
def test_tiles_hang_over_the_edge(region):
    geometry = Geometry.make(1)
    tensors = case(1, 5, 4, geometry, (31, 32), reach=2.0)
    where = random_mask(1, 31, 32).to(DEVICE) if region else None
    found = run("fused", tensors, geometry, where, config=Config(64, 16, 16, 4, 1, 8))
    assert_all_near(found, reference(tensors, geometry, where), 1e-5)


def test_many_images_of_one_pixel():
    geometry = Geometry.make(3, 1, 1)
    tensors = case(33, 4, 3, geometry, (1, 1))
    assert_all_near(run("fused", tensors, geometry), reference(tensors, geometry), 1e-5)


def test_more_channels_than_fit_go_through_columns():
    geometry = Geometry.make(1)
    image, weight, offset, scale, bias, grad = tensors = case(1, 260, 3, geometry, (2, 3))
    assert columns.preferred(weight)
    assert not columns.preferred(weight[:, :256])
    value = launch.forward(image, weight, offset, scale, bias, None, geometry)
    *gradients, grad_bias = launch.backward(grad, image, weight, offset, scale, None, geometry, (*ALL, True))
    torch.testing.assert_close(grad_bias, grad.sum((0, 2, 3)))
    assert_all_near((value, gradients), reference(tensors, geometry), 1e-5)


def test_columns_in_many_turns(monkeypatch):
    monkeypatch.setattr(columns, "BUFFER_BYTES", 23 * 9 * 3 * 4)
    tensors, geometry = small()
    assert_all_near(run("columns", tensors, geometry), reference(tensors, geometry), 1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_only_what_is_wanted(path):
    tensors, geometry = small()
    _, whole = run(path, tensors, geometry)
    wishes = [*itertools.product((False, True), repeat=4)]
    for wanted in wishes[::2] if path == "fused" else wishes[5:9:3]:
        _, found = run(path, tensors, geometry, wanted=wanted)
        assert tuple(g is not None for g in found) == wanted
        for got, want in zip(found, whole, strict=True):
            if got is not None:
                assert_near(got, want, 1e-6)


@pytest.mark.parametrize("region", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize("path", PATHS)
def test_deterministic_path(path, region):
    tensors, geometry = small()
    where = random_mask(2, 4, 5).to(DEVICE) if region else None
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (run(path, tensors, geometry, where) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_all_near(first, reference(tensors, geometry, where), 1e-5)
    assert_equal(first, second)


@pytest.mark.parametrize("far", [1e6, -1e6, 3e38, float("inf"), -float("inf")])
@pytest.mark.parametrize("path", PATHS)
def test_samples_far_outside_are_zero_with_finite_gradients(path, far):
    tensors, geometry = small()
    tensors = (*tensors[:2], torch.full_like(tensors[2], far), *tensors[3:])
    value, gradients = run(path, tensors, geometry)
    assert_equal(value, tensors[4][:, None, None].expand_as(value))
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("region", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize("path", PATHS)
def test_nan_offsets_touch_their_own_outputs_only(path, region):
    tensors, geometry = small()
    where = torch.ones(2, 1, 4, 5, dtype=torch.bool, device=DEVICE) if region else None
    clean, wanted = run(path, tensors, geometry, where)
    tensors[2][1, 5, 2, 3] = float("nan")
    value, gradients = run(path, tensors, geometry, where)
    assert bool(value[1, :, 2, 3].isnan().all())
    assert bool(gradients[3][1, 2, 2, 3].isnan())
    assert int(gradients[3].isnan().sum()) == 1
    assert not gradients[0][0].isnan().any()
    value[1, :, 2, 3] = clean[1, :, 2, 3]
    assert_equal(value, clean)
    assert_near(gradients[0][0], wanted[0][0], 1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_nan_outside_the_region_reaches_nothing(path):
    tensors, geometry = small()
    region = torch.ones(2, 1, 4, 5, dtype=torch.bool, device=DEVICE)
    region[1, 0, 2, 3] = False
    expected = run(path, tensors, geometry, region)
    for spoiled in tensors[2], tensors[3], tensors[5]:
        spoiled[1, :, 2, 3] = float("nan")
    found = run(path, tensors, geometry, region)
    assert_all_near(found, expected, 1e-6)


def test_unmoved_taps_on_the_rim_know_where_the_image_is():
    # One pixel, padding 1: the outer taps lie exactly at -1, where moving towards the image must pay.
    image, one = torch.full((1, 1, 1, 1), 1.5, device=DEVICE), torch.ones(1, 1, 1, 1, device=DEVICE)
    offset, scale = torch.zeros(1, 2, 1, 3, device=DEVICE), torch.ones(1, 1, 1, 3, device=DEVICE)
    tensors = (image, one, offset, scale, None, torch.ones(1, 1, 1, 3, device=DEVICE))
    for path in PATHS:
        _, gradients = run(path, tensors, Geometry.make(1, 1, (0, 1)))
        assert gradients[2][0, 1, 0].tolist() == [1.5, -1.5, 0.0]


@pytest.mark.parametrize("path", PATHS)
def test_memory_layout_does_not_matter_and_is_kept(path):
    tensors, geometry = small()
    expected = run(path, tensors, geometry)

    def strided(t):
        wide = t.new_zeros(*t.shape[:-1], 2 * t.shape[-1])
        wide[..., ::2] = t
        return wide[..., ::2]

    layouts = (lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t, strided)
    for layout in layouts:
        moved = tuple(layout(t) for t in tensors)
        found = run(path, moved, geometry)
        assert_all_near(found, expected, 1e-6)
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        for gradient, like in zip(found[1], moved, strict=False):
            assert gradient.stride() == torch.empty_like(like).stride()


def test_expanded_arguments_work():
    tensors, geometry = small()
    shared = tuple(t[:1].expand(2, -1, -1, -1) if t.dim() == 4 and i != 1 else t for i, t in enumerate(tensors))
    assert_all_near(run("fused", shared, geometry), reference(shared, geometry), 1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_region_index_lists_the_cells_in_order(share):
    region = torch.rand(2, 1, 40, 41, generator=seeded(5)).to(DEVICE) < share
    with poisoned():
        index, count = region_index(region)
    expected = region.reshape(-1).nonzero()[:, 0]
    assert int(count) == len(expected)
    assert_equal(index[: len(expected)].long(), expected)


def test_can_run_here():
    tensors, _ = small()
    assert unsupported(*tensors[:4]) is None
