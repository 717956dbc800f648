"""The three primitives behind the adaptive convolution: values, gradients of every order, registration."""

import pytest
import torch
from harness import SEEDS, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import dot_rows_loop, gather_rows_loop, scatter_rows_loop
from torch.autograd import gradcheck, gradgradcheck

from kdinpaint.ops import sampling
from kdinpaint.ops.sampling import dot_rows, gather_rows, scatter_rows

WIDTH, COUNT = 3, 9


def draw_table(samples=5, channels=3, seed=0, dtype=torch.float64, index_dtype=torch.int32, count=COUNT):
    """first (N,), weight (N, 4), rows (R, C), samples (N, C)."""
    generator = seeded(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    first = torch.randint(count - WIDTH - 1, (samples,), generator=generator, dtype=index_dtype)
    return first, draw(samples, 4), draw(count, channels), draw(samples, channels)


tables = st.builds(
    draw_table,
    samples=st.integers(0, 9),
    channels=st.integers(1, 5),
    seed=SEEDS,
    index_dtype=st.sampled_from([torch.int32, torch.int64]),
)


@given(tables)
def test_gather_is_the_loop(case):
    first, weight, rows, _ = case
    expected = gather_rows_loop(first, weight, rows, WIDTH)
    torch.testing.assert_close(gather_rows(first, weight, rows, WIDTH), expected)


@given(tables)
def test_scatter_is_the_loop(case):
    first, weight, _, samples = case
    expected = scatter_rows_loop(first, weight, samples, WIDTH, COUNT)
    torch.testing.assert_close(scatter_rows(first, weight, samples, WIDTH, COUNT), expected)


@given(tables)
def test_dot_is_the_loop(case):
    first, _, rows, samples = case
    torch.testing.assert_close(dot_rows(first, rows, samples, WIDTH), dot_rows_loop(first, rows, samples, WIDTH))


@given(tables)
def test_scatter_is_the_transpose_of_gather(case):
    first, weight, rows, samples = case
    forth = (gather_rows(first, weight, rows, WIDTH) * samples).sum()
    back = (rows * scatter_rows(first, weight, samples, WIDTH, COUNT)).sum()
    torch.testing.assert_close(forth, back)


@pytest.mark.parametrize("samples", [sampling.RADIX // 4, sampling.RADIX + 5], ids=["padded", "radix"])
def test_long_tables_are_sorted_rightly(samples):
    first, weight, _, points = draw_table(samples, 1, count=500)
    expected = scatter_rows_loop(first, weight, points, WIDTH, 500)
    torch.testing.assert_close(scatter_rows(first, weight, points, WIDTH, 500), expected)
    ordered, order = sampling.sort(first)
    assert torch.equal(ordered, first[order])
    assert torch.equal(order, torch.sort(first, stable=True).indices)


def calls():
    first, weight, rows, samples = draw_table()
    return {
        "gather": (lambda w, r: gather_rows(first, w, r, WIDTH), (weight, rows)),
        "scatter": (lambda w, s: scatter_rows(first, w, s, WIDTH, COUNT), (weight, samples)),
        "dot": (lambda r, s: dot_rows(first, r, s, WIDTH), (rows, samples)),
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
    first, weight, rows, points = draw_table(samples, dtype=torch.float32)
    leaves = [t.requires_grad_() for t in (weight, rows, points)]
    arguments = {
        "gather_rows": (first, leaves[0], leaves[1], WIDTH),
        "scatter_rows": (first, leaves[0], leaves[2], WIDTH, COUNT),
        "dot_rows": (first, leaves[1], leaves[2], WIDTH),
    }[name]
    torch.library.opcheck(getattr(torch.ops.kdinpaint, name).default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    first, weight, rows, samples = draw_table(dtype=dtype)
    w, r, s = (t.double() for t in (weight, rows, samples))
    close = {"rtol": 0.05, "atol": 0.1, "check_dtype": False}
    torch.testing.assert_close(gather_rows(first, weight, rows, WIDTH), gather_rows_loop(first, w, r, WIDTH), **close)
    torch.testing.assert_close(
        scatter_rows(first, weight, samples, WIDTH, COUNT), scatter_rows_loop(first, w, s, WIDTH, COUNT), **close
    )
    torch.testing.assert_close(dot_rows(first, rows, samples, WIDTH), dot_rows_loop(first, r, s, WIDTH), **close)


def test_scatter_is_deterministic():
    first, weight, _, samples = draw_table(500, 8, dtype=torch.float32)
    once = scatter_rows(first, weight, samples, WIDTH, COUNT)
    assert all(torch.equal(scatter_rows(first, weight, samples, WIDTH, COUNT), once) for _ in range(3))
