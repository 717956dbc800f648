"""channel_alignment against exact gradients, and that it leaves everything as it was."""

import pytest
import torch
from harness import SEEDS, random_mask, seeded
from hypothesis import given
from torch import nn

from kdinpaint import CrossDistillLoss
from kdinpaint.distill import channel_alignment


class Problem:
    """A two-level student, teacher features, a direction."""

    def __init__(self, seed=0, dtype=torch.float64):
        generator = seeded(seed)
        torch.manual_seed(seed)
        self.first = nn.Conv2d(2, 3, 3, padding=1, dtype=dtype)
        self.second = nn.Conv2d(3, 4, 4, 2, 1, dtype=dtype)
        self.parameters = [*self.first.parameters(), *self.second.parameters()]
        self.x = torch.randn(2, 2, 4, 6, generator=generator, dtype=dtype)
        sizes = ((2, 3, 4, 6), (2, 4, 2, 3))
        self.teacher = [torch.randn(*s, generator=generator, dtype=dtype) for s in sizes]
        self.mask = random_mask(2, 4, 6, seed)
        self.loss = CrossDistillLoss([3, 4], dtype=dtype)
        self.direction = [torch.randn(p.shape, generator=generator, dtype=dtype) for p in self.parameters]

    def distances(self):
        one = torch.tanh(self.first(self.x))
        return self.loss.distances([one, torch.tanh(self.second(one))], self.teacher, self.mask)

    def exact(self):
        """<grad d_bc, v>, one backward pass for each of the B x C distances."""
        rows = []
        for level in self.distances():
            row = torch.zeros_like(level)
            for place in range(level.numel()):
                gradients = torch.autograd.grad(
                    level.flatten()[place], self.parameters, retain_graph=True, allow_unused=True
                )
                products = [
                    (g * v).sum()
                    for g, v in zip(gradients, self.direction, strict=True)
                    if not (g is None or v is None)
                ]
                row.view(-1)[place] = sum(products)
            rows.append(row.detach())
        return rows


@given(SEEDS)
def test_equals_exact_inner_products(seed):
    problem = Problem(seed)
    got = channel_alignment(problem.distances, problem.parameters, problem.direction, epsilon=1e-5)
    for ours, exact in zip(got, problem.exact(), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-8)


def test_default_step_is_accurate_in_float32():
    problem = Problem(dtype=torch.float32)
    got = channel_alignment(problem.distances, problem.parameters, problem.direction)
    for ours, exact in zip(got, problem.exact(), strict=True):
        assert torch.cosine_similarity(ours.flatten(), exact.flatten(), 0).item() > 0.9999


def test_length_of_the_direction_only_scales():
    problem = Problem()
    one = channel_alignment(problem.distances, problem.parameters, problem.direction, epsilon=1e-5)
    hundred = channel_alignment(
        problem.distances, problem.parameters, [100 * v for v in problem.direction], epsilon=1e-5
    )
    for a, b in zip(one, hundred, strict=True):
        torch.testing.assert_close(100 * a, b, rtol=1e-5, atol=1e-8)


def test_none_counts_as_zero():
    problem = Problem()
    problem.direction = [None, *problem.direction[1:3], None]
    got = channel_alignment(problem.distances, problem.parameters, problem.direction, epsilon=1e-5)
    for ours, exact in zip(got, problem.exact(), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-8)


def test_parameters_come_back_bit_for_bit():
    problem = Problem(dtype=torch.float32)
    before = [p.clone() for p in problem.parameters]
    channel_alignment(problem.distances, problem.parameters, problem.direction)
    assert all(torch.equal(p, b) for p, b in zip(problem.parameters, before, strict=True))


@pytest.mark.parametrize("when", [1, 2])
def test_parameters_come_back_after_an_error(when):
    problem = Problem(dtype=torch.float32)
    before = [p.clone() for p in problem.parameters]
    calls = []

    def failing():
        calls.append(1)
        if len(calls) == when:
            raise RuntimeError("out of memory")
        return problem.distances()

    with pytest.raises(RuntimeError, match="out of memory"):
        channel_alignment(failing, problem.parameters, problem.direction)
    assert all(torch.equal(p, b) for p, b in zip(problem.parameters, before, strict=True))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), None])
def test_no_direction_gives_none_without_a_call(value):
    problem = Problem()
    direction = [None if value is None else torch.full_like(p, value) for p in problem.parameters]

    def never():
        raise AssertionError("distances were evaluated")

    assert channel_alignment(never, problem.parameters, direction) is None


def test_evaluates_twice_without_gradients_and_in_full_precision():
    problem = Problem(dtype=torch.float32)
    seen = []

    def watched():
        result = problem.distances()
        seen.append((torch.is_grad_enabled(), result[0].dtype))
        return result

    plain = channel_alignment(problem.distances, problem.parameters, problem.direction)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = channel_alignment(watched, problem.parameters, problem.direction)
    assert seen == [(False, torch.float32)] * 2
    assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))


def test_low_precision_distances_give_float32():
    problem = Problem(dtype=torch.float32)
    got = channel_alignment(
        lambda: [d.bfloat16() for d in problem.distances()], problem.parameters, problem.direction, epsilon=0.5
    )
    assert {g.dtype for g in got} == {torch.float32}


def test_lists_of_different_length_are_refused():
    problem = Problem()
    with pytest.raises(ValueError, match="zip"):
        channel_alignment(problem.distances, problem.parameters, problem.direction[:1])
