"""MetaLearner beside an awkward host: dropout, batch statistics, gradient accumulation, autocast, several processes."""

import copy

import pytest
import torch
from harness import assert_equal, seeded
from torch import nn
from two_processes import in_two_processes, needs_gloo

from kdinpaint import CrossDistillLoss, MetaLearner
from kdinpaint._core.errors import ConfigError
from kdinpaint.distill import meta

METHODS = ["align", "lookahead", "l2t"]


class Host(nn.Module):
    def __init__(self, dropout=0.3):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Dropout2d(dropout)
        )
        self.head = nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, x):
        feature = self.encoder(x)
        return self.head(feature), feature


class Problem:
    def __init__(self, method="align", batch=4, dropout=0.3, dtype=torch.float32, **options):
        torch.manual_seed(0)
        self.host = Host(dropout).to(dtype)
        self.cross = CrossDistillLoss([6], aligner="teacher", level_weights="learned", dtype=dtype)
        self.meta = MetaLearner(
            self.cross.meta_parameters(),
            aligners=self.cross.aligner_parameters(),
            method=method,
            every=1,
            lr=0.01,
            inner_lr=0.01,
            **options,
        )
        self.x = torch.randn(batch, 4, 8, 8, generator=seeded(1)).to(dtype)
        self.truth = torch.randn(batch, 3, 8, 8, generator=seeded(2)).to(dtype)
        self.teacher = [torch.randn(batch, 6, 4, 4, generator=seeded(3)).to(dtype)]
        self.mask = torch.ones(batch, 1, 8, 8, dtype=dtype)
        self.parameters = list(self.host.parameters())

    def given(self, part=slice(None)):
        x, truth, teacher, mask = self.x[part], self.truth[part], [self.teacher[0][part]], self.mask[part]
        return {
            "parameters": self.parameters,
            "distances": lambda: self.cross.distances([self.host(x)[1]], teacher, mask),
            "importance": self.cross.importance(teacher, mask),
            "task": lambda: (self.host(x)[0] - truth).square().mean(),
            "modules": [self.host],
        }

    def step(self, **change):
        return self.meta.step(**{**self.given(), **change})

    def meta_state(self):
        return [p.detach().clone() for p in [*self.meta.predictors, *self.meta.aligners]]

    def state(self):
        return copy.deepcopy(
            (
                self.host.state_dict(),
                [p.grad for p in self.parameters],
                [p.requires_grad for p in self.parameters],
                torch.get_rng_state(),
            )
        )


@pytest.mark.parametrize("method", METHODS)
def test_everything_comes_back_bit_for_bit(method):
    problem = Problem(method, inner_momentum=0.9)
    problem.given()["task"]().backward()
    velocity = [torch.randn(p.shape, generator=seeded(7)) for p in problem.parameters]
    before, held, predictors = problem.state(), copy.deepcopy(velocity), problem.meta_state()
    buffers = {name: id(b) for name, b in problem.host.named_buffers()}
    health = problem.step(velocity=velocity)
    assert health is not None
    assert_equal(problem.state(), before)
    assert_equal(velocity, held)
    assert buffers == {name: id(b) for name, b in problem.host.named_buffers()}
    changed = [not torch.equal(a, b) for a, b in zip(problem.meta_state(), predictors, strict=True)]
    assert sum(changed) > len(changed) / 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_everything_comes_back_after_an_error(method, when):
    problem = Problem(method)
    problem.given()["task"]().backward()
    before, predictors, calls = problem.state(), problem.meta_state(), []

    def failing(evaluate):
        def run():
            result = evaluate()
            calls.append(1)
            if len(calls) == when:
                raise RuntimeError("out of memory")
            return result

        return run

    given = problem.given()
    change = {name: failing(given[name]) for name in ("distances", "task")}
    if method == "align" and when == 4:  # it evaluates the task once and the distances twice
        assert problem.step(**change) is not None
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            problem.step(**change)
        assert_equal(problem.meta_state(), predictors)
    assert_equal(problem.state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_every_evaluation_drops_the_same_units(method):
    problem, seen = Problem(method), []
    problem.host.encoder[3].register_forward_hook(lambda module, args, out: seen.append((out == 0).flatten()))
    problem.step()
    assert len(seen) >= 3
    assert all(torch.equal(s, seen[0]) for s in seen)


def test_velocity_reaches_the_virtual_steps():
    one, two = Problem("l2t", inner_momentum=0.9), Problem("l2t", inner_momentum=0.9)
    one.step()
    two.step(velocity=[0.1 * torch.ones_like(p) for p in two.parameters])
    assert any(not torch.equal(a, b) for a, b in zip(one.meta_state(), two.meta_state(), strict=True))


def test_parts_of_a_batch_make_the_update_of_the_whole():
    # Batch statistics must not mix the parts, hence eval mode; the direction is that of the whole batch. In float32
    # the finite differences of two halves and of the whole differ by their rounding.
    whole, parts = (Problem("align", dropout=0.0, dtype=torch.float64) for _ in range(2))
    for problem in (whole, parts):
        problem.host.eval()
        problem.meta.optimizer.param_groups[0]["eps"] = 1.0  # else Adam turns rounding into whole steps
    direction = torch.autograd.grad(whole.given()["task"](), whole.parameters)
    whole.step(direction=direction)
    for part, last in ((slice(0, 2), False), (slice(2, 4), True)):
        parts.meta.step(**{**parts.given(part), "direction": direction, "update": last})
    torch.testing.assert_close(parts.meta_state(), whole.meta_state(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["lookahead", "l2t"])
def test_parts_of_a_batch_that_look_ahead_add_up(method, monkeypatch):
    # Each part takes virtual steps of its own; by plain gradient descent the updates of two are the sum of each one's.
    monkeypatch.setattr(meta, "_root_mean_square", lambda tensors: torch.ones((), dtype=torch.float64))

    def moved(*parts):
        problem = Problem(method, dropout=0.0, dtype=torch.float64)
        problem.host.eval()
        problem.meta.optimizer = torch.optim.SGD([*problem.meta.predictors, *problem.meta.aligners], lr=1.0)
        before = problem.meta_state()
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            assert problem.meta.step(**{**problem.given(part), "update": last}) is not None
            assert last or all(torch.equal(a, b) for a, b in zip(before, problem.meta_state(), strict=True))
        return [after - at for after, at in zip(problem.meta_state(), before, strict=True)]

    first, second = slice(0, 2), slice(2, 4)
    each = [a + b for a, b in zip(moved(first), moved(second), strict=True)]
    assert any(a.any() for a in each)
    torch.testing.assert_close(moved(first, second), each)


@pytest.mark.parametrize("method", METHODS)
def test_accumulated_gradients_of_the_student_stay(method):
    problem = Problem(method)
    for part in (slice(0, 2), slice(2, 4)):
        problem.given(part)["task"]().backward()
        before = [p.grad.clone() for p in problem.parameters]
        problem.meta.step(**problem.given(part), update=part.start == 2)
        assert_equal([p.grad for p in problem.parameters], before)


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_the_hypergradient(method):
    plain, mixed = Problem(method), Problem(method)
    expected, given = plain.step(), mixed.given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixed.meta.step(**given) == expected
    assert_equal(mixed.meta_state(), plain.meta_state())
    # Importance that was itself computed in bfloat16 is rounded, no more.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert mixed.step()["effective_share"] == pytest.approx(plain.step()["effective_share"], abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_works_inside_no_grad(method):
    plain, frozen = Problem(method), Problem(method)
    plain.step()
    given = frozen.given()
    with torch.no_grad():
        frozen.meta.step(**given)
    assert_equal(frozen.meta_state(), plain.meta_state())


def _work(rank):
    part, states = slice(2 * rank, 2 * rank + 2), {}
    for method in METHODS:
        problem = Problem(method, dropout=0.0)
        problem.host.eval()
        for _ in range(3):
            problem.meta.step(**problem.given(part))
        states[method] = problem.meta_state()
    # One process whose direction is not finite holds back both, and nobody waits for ever.
    problem = Problem("align")
    before = problem.meta_state()
    bad = [torch.full_like(p, float("nan") if rank else 1.0) for p in problem.parameters]
    assert problem.step(task=None, direction=bad) is None
    assert all(torch.equal(a, b) for a, b in zip(before, problem.meta_state(), strict=True))
    return states


@needs_gloo
@pytest.mark.slow
def test_processes_make_one_update_together(tmp_path):
    first, second = in_two_processes(_work, tmp_path)
    assert_equal(first, second)
    for method in METHODS:  # the same as one process with the whole batch
        problem = Problem(method, dropout=0.0)
        problem.host.eval()
        for _ in range(3):
            problem.meta.step(**problem.given())
        for ours, theirs in zip(problem.meta_state(), first[method], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Problem("l2t").step(task=None), "'l2t' evaluates the task loss itself; pass task="),
        (lambda: Problem("lookahead").step(task=None, direction=[]), "'lookahead' evaluates"),
        (lambda: Problem("align").step(task=None), "or its gradient as direction="),
        (lambda: Problem(inner_steps=0), "inner_steps 0"),
        (lambda: MetaLearner([nn.Parameter(torch.zeros(1))], inner_lr=0.0), "inner_lr 0"),
    ],
)
def test_documented_errors(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
