"""The three hypergradients against a closed form and against finite differences of the whole bilevel procedure."""

import copy

import pytest
import torch
from harness import random_mask, randomise, seeded
from torch import nn

from kdinpaint import CrossDistillLoss, FillerBlock
from kdinpaint._core.errors import KDInpaintWarning
from kdinpaint.distill.hypergradient import Bilevel, VirtualSteps, aligned, looked_ahead, unrolled
from kdinpaint.distill.replay import Replay

D = torch.float64


class Quadratic:
    """theta in R^3; distance c is (theta_c - t_c)^2 and the task theta' A theta / 2 - b' theta: all of it is linear."""

    def __init__(self):
        generator = seeded(5)
        square = torch.randn(3, 3, generator=generator, dtype=D)
        self.matrix, self.b = square @ square.t() + torch.eye(3, dtype=D), torch.randn(3, generator=generator, dtype=D)
        self.t, self.theta = torch.randn(3, generator=generator, dtype=D), torch.randn(3, generator=generator, dtype=D)
        self.velocity = torch.randn(3, generator=generator, dtype=D)
        self.rho = torch.rand(1, 3, generator=generator, dtype=D)
        self.leaf = nn.Parameter(self.theta.clone())

    def distances(self):
        return [(self.leaf - self.t).square()[None]]

    def task(self):
        return 0.5 * self.leaf @ self.matrix @ self.leaf - self.b @ self.leaf

    def bilevel(self, replay, factor):
        return Bilevel(replay, self.distances, [self.rho], [factor], self.task)

    def sensitivities(self, steps, factor):
        """d task / d rho by forward propagation of d theta / d rho and d velocity / d rho, matrices by hand."""
        theta, v = self.theta.clone(), self.velocity.clone()
        d_theta, d_v, eye = torch.zeros(3, 3, dtype=D), torch.zeros(3, 3, dtype=D), torch.eye(3, dtype=D)
        for number in range(steps.count + 1):
            if number < steps.count:
                rho = self.rho[0]
                g = 2 * factor * rho * (theta - self.t)
                d_g = 2 * factor * (torch.diag(rho) @ d_theta + torch.diag(theta - self.t))
            else:
                g, d_g = self.matrix @ theta - self.b, self.matrix @ d_theta
            v, d_v = (
                steps.momentum * v + g + steps.weight_decay * theta,
                steps.momentum * d_v + d_g + steps.weight_decay * eye @ d_theta,
            )
            theta, d_theta = theta - steps.lr * v, d_theta - steps.lr * d_v
        return (self.matrix @ theta - self.b) @ d_theta


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.05)])
def test_unrolled_is_the_closed_form_on_a_quadratic(count, momentum, weight_decay):
    toy = Quadratic()
    steps = VirtualSteps(0.02, count, momentum, weight_decay, velocity=[toy.velocity])
    with Replay([toy.leaf]) as replay:
        found = unrolled(toy.bilevel(replay, factor=0.7), steps)
    torch.testing.assert_close(found.importance[0][0], toy.sensitivities(steps, 0.7), rtol=1e-12, atol=1e-14)
    assert torch.equal(toy.leaf, toy.theta)


def test_lookahead_is_one_step_without_task_step_on_a_quadratic():
    toy = Quadratic()
    with Replay([toy.leaf]) as replay:
        found = looked_ahead(toy.bilevel(replay, factor=0.7), VirtualSteps(0.1), 1e-3)
    ahead = toy.theta - 0.1 * 2 * 0.7 * toy.rho[0] * (toy.theta - toy.t)
    exact = -0.7 * 2 * (toy.theta - toy.t) * (toy.matrix @ ahead - toy.b)
    torch.testing.assert_close(found.importance[0][0], exact)
    with Replay([toy.leaf]) as replay:
        found = aligned(toy.bilevel(replay, factor=0.7), toy.bilevel(replay, 0.7).task_gradient()[1], 1e-3)
    torch.testing.assert_close(
        found.importance[0][0], -0.7 * 2 * (toy.theta - toy.t) * (toy.matrix @ toy.theta - toy.b)
    )


class Student(nn.Module):
    """A level with a filler, built on adaptive convolutions, and a head that only the task loss sees."""

    def __init__(self):
        super().__init__()
        self.level = nn.Conv2d(2, 4, 4, 2, 1)
        self.fill = FillerBlock(2, 4)
        self.head = nn.ConvTranspose2d(4, 2, 2, 2)

    def encode(self, x, mask):
        return torch.tanh(self.level(x) + self.fill(x, mask))

    def forward(self, x, mask):
        return self.head(self.encode(x, mask))


class Procedure:
    """The bilevel problem with real parts, in float64."""

    def __init__(self, **options):
        generator = seeded(0)
        self.student = randomise(Student().to(D), scale=0.3)
        self.x = torch.randn(2, 2, 8, 8, generator=generator, dtype=D)
        self.truth = torch.randn(2, 2, 8, 8, generator=generator, dtype=D)
        self.teacher = [torch.randn(2, 4, 4, 4, generator=generator, dtype=D)]
        self.mask = random_mask(2, 8, 8)
        self.cross = randomise(CrossDistillLoss([4], dtype=D, **options), scale=0.3)
        self.parameters = list(self.student.parameters())
        self.velocity = [0.1 * torch.randn(p.shape, generator=generator, dtype=D) for p in self.parameters]

    def distances(self, student=None):
        feature = (student or self.student).encode(self.x, self.mask)
        return self.cross.distances([feature], self.teacher, self.mask)

    def task(self, student=None):
        return ((student or self.student)(self.x, self.mask) - self.truth).square().mean()

    def importance(self):
        return self.cross.importance(self.teacher, self.mask)

    def match(self, student):
        return 3.0 * self.cross.combine(self.importance(), self.distances(student))

    def outcome(self, steps, *, task_step):
        """The task loss after the procedure, by an ordinary optimiser on a copy."""
        student = copy.deepcopy(self.student)
        optimizer = torch.optim.SGD(
            student.parameters(), steps.lr, momentum=steps.momentum, weight_decay=steps.weight_decay
        )
        if steps.velocity is not None:
            for p, v in zip(student.parameters(), steps.velocity, strict=True):
                optimizer.state[p]["momentum_buffer"] = v.clone()
        losses = [lambda: self.match(student)] * steps.count
        for loss in [*losses, *([lambda: self.task(student)] if task_step else [])]:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        with torch.no_grad():
            return self.task(student).item()

    def differences(self, leaves, steps, *, task_step, epsilon=1e-5):
        """Central differences along random directions, one a leaf, and those directions."""
        found = []
        for number, leaf in enumerate(leaves):
            v = torch.randn(leaf.shape, generator=seeded(number + 9), dtype=D)
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    leaf.add_(v, alpha=sign * epsilon)
                values.append(self.outcome(steps, task_step=task_step))
                with torch.no_grad():
                    leaf.sub_(v, alpha=sign * epsilon)
            found.append(((values[0] - values[1]) / (2 * epsilon), v))
        return found

    def hypergradient(self, solve):
        """By predictor or level weight, and by aligner."""
        importance, meta = self.importance(), self.cross.meta_parameters()
        aligners = self.cross.aligner_parameters()
        with Replay(self.parameters) as replay:
            factors = [3.0 * w for w in self.cross.pair_weights()]
            rho = [r.detach() for r in importance]
            found = solve(Bilevel(replay, self.distances, rho, factors, self.task, aligners))
        return [*torch.autograd.grad(importance, meta, found.importance), *found.aligners], [*meta, *aligners]


OPTIONS = [
    {},
    {"level_weights": "learned", "distance": "smooth_l1", "rim": 1.0},
    {"aligner": "teacher"},
    {"aligner": "student"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "levels", "teacher", "student"])
@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.01)])
def test_unrolled_is_the_finite_difference_of_the_whole_procedure(options, momentum, weight_decay):
    problem = Procedure(**options)
    steps = VirtualSteps(0.02, 2, momentum, weight_decay, velocity=problem.velocity if momentum else None)
    gradients, leaves = problem.hypergradient(lambda b: unrolled(b, steps))
    expected = problem.differences(leaves, steps, task_step=True)
    for gradient, (difference, v) in zip(gradients, expected, strict=True):
        assert (gradient * v).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-9)
    assert max(abs(difference) for difference, _ in expected) > 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "levels", "teacher", "student"])
def test_lookahead_is_the_finite_difference_of_one_step(options):
    problem = Procedure(**options)
    steps = VirtualSteps(0.05, 1)
    gradients, leaves = problem.hypergradient(lambda b: looked_ahead(b, steps, 1e-4))
    for gradient, (difference, v) in zip(gradients, problem.differences(leaves, steps, task_step=False), strict=True):
        assert steps.lr * (gradient * v).sum().item() == pytest.approx(difference, rel=1e-4, abs=1e-9)


def test_the_three_agree_where_virtual_steps_are_short():
    problem = Procedure(aligner="teacher")
    short = VirtualSteps(1e-4, 1)
    align = problem.hypergradient(lambda b: aligned(b, b.task_gradient()[1], 1e-4))[0]
    for solve in (lambda b: looked_ahead(b, short, 1e-4), lambda b: unrolled(b, short)):
        for one, two in zip(align, problem.hypergradient(solve)[0], strict=True):
            assert torch.cosine_similarity(one.flatten(), two.flatten(), 0).item() > 0.999


def test_the_step_on_the_task_must_lower_it():
    problem = Procedure()
    before = [p.clone() for p in problem.parameters]
    rho = [r.detach() for r in problem.importance()]
    with Replay(problem.parameters) as replay:
        bilevel = Bilevel(replay, problem.distances, rho, [1.0], problem.task)
        with pytest.warns(KDInpaintWarning, match=r"raised it.*inner_lr \(now 50"):
            assert unrolled(bilevel, VirtualSteps(50.0)) is None
    assert all(torch.equal(p, b) for p, b in zip(problem.parameters, before, strict=True))
