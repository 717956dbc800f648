"""The three primitives behind the adaptive convolution: values, gradients of every order, registration."""

import pytest
import torch
from harness import SEEDS, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import dot_rows_loop, gather_rows_loop, scatter_rows_loop
from torch.autograd import gradcheck, gradgradcheck

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.sampling import dot_rows, gather_rows, sampling_table, scatter_rows


def table(samples=5, rows=4, channels=3, seed=0, dtype=torch.float64, index_dtype=torch.int32):
    """index (N, 4), weight (N, 4), rows (R, C), samples (N, C)."""
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    index = torch.randint(rows, (samples, 4), generator=generator, dtype=index_dtype)
    return index, draw(samples, 4), draw(rows, channels), draw(samples, channels)


tables = st.builds(
    table,
    samples=st.integers(0, 9),
    rows=st.integers(1, 7),
    channels=st.integers(1, 5),
    seed=SEEDS,
    index_dtype=st.sampled_from([torch.int32, torch.int64]),
)


@given(tables)
def test_gather_is_the_loop(case):
    index, weight, rows, _ = case
    torch.testing.assert_close(gather_rows(index, weight, rows), gather_rows_loop(index, weight, rows))


@given(tables)
def test_scatter_is_the_loop(case):
    index, weight, rows, samples = case
    expected = scatter_rows_loop(index, weight, samples, len(rows))
    torch.testing.assert_close(scatter_rows(index, weight, samples, len(rows)), expected)


@given(tables)
def test_dot_is_the_loop(case):
    index, _, rows, samples = case
    torch.testing.assert_close(dot_rows(index, rows, samples), dot_rows_loop(index, rows, samples))


@given(tables)
def test_scatter_is_the_transpose_of_gather(case):
    index, weight, rows, samples = case
    forth = (gather_rows(index, weight, rows) * samples).sum()
    back = (rows * scatter_rows(index, weight, samples, len(rows))).sum()
    torch.testing.assert_close(forth, back)


def calls():
    index, weight, rows, samples = table()
    return {
        "gather": (lambda w, r: gather_rows(index, w, r), (weight, rows)),
        "scatter": (lambda w, s: scatter_rows(index, w, s, 4), (weight, samples)),
        "dot": (lambda r, s: dot_rows(index, r, s), (rows, samples)),
    }


@pytest.mark.parametrize("name", ["gather", "scatter", "dot"])
def test_gradients_of_first_and_second_order(name):
    run, leaves = calls()[name]
    leaves = [t.requires_grad_() for t in leaves]
    assert gradcheck(run, leaves)
    assert gradgradcheck(run, leaves)


@pytest.mark.parametrize("name", ["gather", "scatter", "dot"])
def test_only_wanted_gradients_are_computed(name):
    run, (first, second) = calls()[name]
    for wanted, other in ((first, second), (second, first)):
        wanted.requires_grad_()
        run(first, second).sum().backward()
        assert wanted.grad is not None
        assert other.grad is None
        wanted.grad = None
        wanted.requires_grad_(False)


# PyTorch's own tracing looks at .grad of what it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("samples", [0, 5])
@pytest.mark.parametrize("name", ["gather_rows", "scatter_rows", "dot_rows"])
def test_registration(name, samples):
    index, weight, rows, points = table(samples, dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (weight, rows, points)]
    arguments = {
        "gather_rows": (index, leaves[0], leaves[1]),
        "scatter_rows": (index, leaves[0], leaves[2], 4),
        "dot_rows": (index, leaves[1], leaves[2]),
    }[name]
    torch.library.opcheck(getattr(torch.ops.kdinpaint, name).default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    index, weight, rows, samples = table(dtype=dtype)
    wide = [t.double() for t in (weight, rows, samples)]
    close = {"rtol": 0.05, "atol": 0.1, "check_dtype": False}
    torch.testing.assert_close(gather_rows(index, weight, rows), gather_rows_loop(index, *wide[:2]), **close)
    torch.testing.assert_close(
        scatter_rows(index, weight, samples, 4), scatter_rows_loop(index, wide[0], wide[2], 4), **close
    )
    torch.testing.assert_close(dot_rows(index, rows, samples), dot_rows_loop(index, *wide[1:]), **close)


def test_scatter_is_deterministic():
    index, weight, _, samples = table(500, 3, 8, dtype=torch.float32)
    first = scatter_rows(index, weight, samples, 3)
    assert all(torch.equal(scatter_rows(index, weight, samples, 3), first) for _ in range(3))


GEOMETRY = {"input_size": (4, 5), "geometry": Geometry.make(2)}


def test_table_of_unmoved_taps_reads_single_rows():
    index, weight = sampling_table(torch.zeros(2, 8, 3, 4), torch.ones(2, 4, 3, 4), **GEOMETRY)
    assert index.dtype == torch.int32
    read = index[:, 0].view(2, 3, 4, 2, 2)
    batch, row, column, i, j = torch.meshgrid(*(torch.arange(n) for n in read.shape), indexing="ij")
    assert torch.equal(read.long(), batch * 20 + (row + i) * 5 + column + j)
    assert torch.equal(weight, torch.tensor([1.0, 0.0, 0.0, 0.0]).expand_as(weight))


@given(SEEDS, st.floats(0, 50))
def test_table_stays_inside_its_own_image(seed, reach):
    offset = reach * torch.randn(2, 8, 3, 4, generator=seeded(seed))
    index, weight = sampling_table(offset, torch.ones(2, 4, 3, 4), **GEOMETRY)
    image = index.view(2, -1) // 20
    assert torch.equal(image, torch.tensor([[0], [1]], dtype=torch.int32).expand_as(image))
    assert bool((weight >= 0).all())
    assert bool((weight.sum(1) <= 1 + 1e-5).all())


@given(SEEDS)
def test_table_of_positions_is_part_of_the_whole(seed):
    offset = torch.randn(2, 8, 3, 4, generator=seeded(seed))
    kernel = torch.randn(2, 4, 3, 4, generator=seeded(seed + 1))
    positions = torch.randperm(24, generator=seeded(seed))[:7]
    index, weight = sampling_table(offset, kernel, **GEOMETRY)
    some_index, some_weight = sampling_table(offset, kernel, **GEOMETRY, positions=positions)
    assert torch.equal(some_index, index.view(24, 4, 4)[positions].view(-1, 4))
    assert torch.equal(some_weight, weight.view(24, 4, 4)[positions].view(-1, 4))
