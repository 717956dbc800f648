"""The compiled form against the plain one where its pieces matter: many channels, slices of taps, tiles, threads."""

import pytest
import torch
from adaptive_problems import problem
from cpu_backends import needs_compiler
from harness import assert_equal, random_mask, seeded

from kdinpaint.ops import cpp, tiled
from kdinpaint.ops.cpp import work
from kdinpaint.ops.geometry import Geometry

pytestmark = needs_compiler


def run(form, tensors, geometry, part, wanted=(True,) * 5):
    x, weight, offset, kernel, bias = tensors
    region = random_mask(x.shape[0], *kernel.shape[-2:]) if part else None
    slope = torch.randn(x.shape[0], weight.shape[0], *kernel.shape[-2:], generator=seeded(7), dtype=x.dtype)
    value = form.forward(x, weight, offset, kernel, bias, region, geometry)
    return value, *form.backward(slope, x, weight, offset, kernel, region, geometry, wanted)


def large(channels, outputs, kernel_size=(3, 3), size=(31, 37), dtype=torch.float64):
    tensors, pairs = problem(2, channels, outputs, kernel_size, size, (1, 1), (1, 1), (1, 1), reach=3.0, dtype=dtype)
    return tensors, Geometry(kernel_size, *pairs)


@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize(
    ("channels", "outputs", "kernel_size"), [(1, 1, (1, 1)), (100, 53, (3, 3)), (23, 130, (5, 2)), (400, 7, (2, 2))]
)
def test_many_channels_positions_and_taps(channels, outputs, kernel_size, part):
    case = large(channels, outputs, kernel_size)
    torch.testing.assert_close(run(cpp, *case, part), run(tiled, *case, part), rtol=1e-10, atol=1e-10)


def test_float32_is_as_precise_as_the_plain_form():
    tensors, geometry = large(96, 64, dtype=torch.float32)
    exact = run(tiled, [t.double() for t in tensors], geometry, part=False)
    plain, found = (run(form, tensors, geometry, part=False) for form in (tiled, cpp))
    for value, other, truth in zip(found, plain, exact, strict=True):
        error, bound = (torch.linalg.vector_norm(v - truth) for v in (value, other))
        assert error < 4 * bound + 1e-7 * torch.linalg.vector_norm(truth)


@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
@pytest.mark.parametrize(("panel", "slice_", "tile"), [(1, 1, 1), (5, 40, 7), (64, 10**6, 10**6)])
def test_pieces_of_any_size(panel, slice_, tile, part, monkeypatch):
    case = large(20, 19, size=(9, 11))
    expected = run(cpp, *case, part)
    for name, value in {"PANEL": panel, "SLICE": slice_, "SMALLEST_TILE": tile, "LARGEST_TILE": tile}.items():
        monkeypatch.setattr(work, name, value)
    torch.testing.assert_close(run(cpp, *case, part), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", range(5))
def test_each_gradient_alone(wanted):
    case = large(20, 19)
    expected = run(cpp, *case, part=True)[1 + wanted]
    found = run(cpp, *case, part=True, wanted=tuple(i == wanted for i in range(5)))[1:]
    assert_equal(found[wanted], expected)
    assert all(grad is None for i, grad in enumerate(found) if i != wanted)


def test_a_large_map_gives_the_same_bits_on_more_threads():
    case = large(20, 70, size=(45, 40), dtype=torch.float32)
    expected = run(cpp, *case, part=False)
    torch.set_num_threads(3)
    try:
        found = run(cpp, *case, part=False)
    finally:
        torch.set_num_threads(1)
    assert_equal(found, expected)
