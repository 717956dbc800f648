r"""How the task loss changes with the weights of a matching loss that the student descends: three derivations.

All of them see the matching loss as $L_m(\theta, \rho) = \sum_l \lambda_l \frac{1}{B} \sum_{bc} \rho^l_{bc}
d^l_{bc}(\theta)$, which is linear in the weights; so each yields numbers for every $\rho^l_{bc}$, and the predictors
behind them need one ordinary backward pass. Distances may depend on aligners, which are differentiated directly.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdinpaint._core.errors import KDInpaintWarning, ShapeError
from kdinpaint._core.processes import averaged
from kdinpaint.distill.replay import Replay
from kdinpaint.ops.reduce import weighted_channel_sum

__all__ = ["Bilevel", "Hypergradient", "VirtualSteps", "aligned", "channel_alignment", "looked_ahead", "unrolled"]


@dataclass
class VirtualSteps:
    """Gradient steps on a copy of the student: SGD as `torch.optim.SGD` does it.

    Attributes:
        lr: Learning rate.
        count: Steps on the matching loss.
        momentum: Of SGD; gradients enter undamped.
        weight_decay: Of SGD.
        velocity: The momentum buffers to start from, one (or None) a parameter; zeros by default.
    """

    lr: float
    count: int = 2
    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity: Sequence[Tensor | None] | None = None


@dataclass
class Bilevel:
    """The two losses at one moment of training.

    Attributes:
        replay: Entered; owns the parameters.
        distances: Evaluates the distances, one (B, n) a level.
        importance: Their weights rho, detached.
        factors: lambda, one a level.
        task: Evaluates the task loss, a scalar.
        aligners: Parameters that the distances depend on and the student does not own.
    """

    replay: Replay
    distances: Callable[[], Sequence[Tensor]]
    importance: Sequence[Tensor]
    factors: Sequence[float]
    task: Callable[[], Tensor] | None = None
    aligners: Sequence[Tensor] = ()

    def measure(self) -> list[Tensor]:
        """The distances, float32 or wider, checked against the importance."""
        found = [d.to(torch.promote_types(d.dtype, torch.float32)) for d in self.distances()]
        shapes = [tuple(d.shape) for d in found], [tuple(r.shape) for r in self.importance]
        if shapes[0] != shapes[1] or len(self.factors) != len(found):
            raise ShapeError(
                f"distances are {shapes[0]}, importance {shapes[1]} and there are {len(self.factors)} weights; "
                f"expected one (B, C) and one weight a level."
            )
        return found

    def match(self, importance: Sequence[Tensor], distances: Sequence[Tensor]) -> Tensor:
        """The matching loss."""
        return torch.stack(
            [
                factor * weighted_channel_sum(rho.to(d.dtype), d)
                for factor, rho, d in zip(self.factors, importance, distances, strict=True)
            ]
        ).sum()

    def task_gradient(self) -> tuple[Tensor, list[Tensor | None]]:
        """The task loss of the whole batch where the parameters are, and its gradient."""
        assert self.task is not None
        with self.replay.evaluation(grad=True):
            loss = self.task()
            found = [loss.detach(), *_gradient(loss, self.replay.parameters)]
        value, *gradient = averaged(found)
        assert value is not None
        return value, gradient


@dataclass
class Hypergradient:
    """Derivative of the task loss, up to a positive factor that all entries share.

    Attributes:
        importance: With respect to rho, one (B, n) a level.
        aligners: With respect to the aligners.
        distances: Distances at the student's parameters, for the log.
        finite: Whether all of it is finite.
    """

    importance: list[Tensor]
    aligners: list[Tensor]
    distances: list[Tensor]
    finite: bool = field(init=False)

    def __post_init__(self) -> None:
        self.finite = all(bool(torch.isfinite(g).all()) for g in [*self.importance, *self.aligners])


def channel_alignment(
    distances: Callable[[], Sequence[Tensor]],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor | None],
    *,
    epsilon: float = 0.01,
) -> list[Tensor] | None:
    r"""Inner products $\langle \nabla_\theta d_{bc}(\theta), v \rangle$ of all samples and channels at once.

    Central difference along v: two evaluations without gradients give every one of the B x C products,

    $$\langle \nabla d_{bc}, v \rangle \approx \frac{d_{bc}(\theta + e v) - d_{bc}(\theta - e v)}{2 e},
    \qquad e = \epsilon / \lVert v \rVert .$$

    The parameters are moved in place and come back bit for bit, also after an error.

    Args:
        distances: Evaluates the distances, a list of (B, C), at the current values of `parameters`. It must
            not update statistics. Both evaluations draw the same random numbers.
        parameters: theta.
        direction: v, one tensor (or None, for zero) a parameter.
        epsilon: Length of the step in parameter space; 1e-4 to 1e-2 is accurate in float32.

    Returns:
        One (B, C) tensor a level, float32 or wider; None if v is zero or not finite.
    """
    step = _step(parameters, direction, epsilon)
    if step is None:
        return None
    with Replay(parameters) as replay:
        sides = _both_sides(replay, distances, direction, step, grad=False)
    return _products(*sides, step)


def aligned(bilevel: Bilevel, direction: Sequence[Tensor | None], epsilon: float) -> Hypergradient | None:
    """-<grad d, v> by central differences along v: what a short step on the matching loss does to the task."""
    step = _step(bilevel.replay.parameters, direction, epsilon)
    if step is None:
        return None
    wanted = bool(bilevel.aligners)
    with bilevel.replay.fixed() if wanted else contextlib.nullcontext():
        plus, minus = _both_sides(bilevel.replay, bilevel.measure, direction, step, grad=wanted)
    products = _products([d.detach() for d in plus], [d.detach() for d in minus], step)
    slopes = [-factor / p.shape[0] * p for factor, p in zip(bilevel.factors, products, strict=True)]
    aligners: list[Tensor] = []
    if wanted:
        # The student's features are fixed, so the two graphs hold the aligners only.
        with bilevel.replay.evaluation(grad=True):
            change = (bilevel.match(bilevel.importance, minus) - bilevel.match(bilevel.importance, plus)) / (2 * step)
            aligners = _filled(_gradient(change, bilevel.aligners), bilevel.aligners)
    return Hypergradient(slopes, aligners, [(a + b).detach() / 2 for a, b in zip(plus, minus, strict=True)])


def looked_ahead(bilevel: Bilevel, steps: VirtualSteps, epsilon: float) -> Hypergradient | None:
    """The same with v where one plain gradient step on the matching loss leads: exact for a step of that length."""
    replay = bilevel.replay
    with replay.evaluation(grad=True):
        ahead = averaged(_gradient(bilevel.match(bilevel.importance, bilevel.measure()), replay.parameters))
    replay.shift(ahead, -steps.lr)
    direction = bilevel.task_gradient()[1]
    replay.move(replay.origin)
    return aligned(bilevel, direction, epsilon)


def unrolled(bilevel: Bilevel, steps: VirtualSteps) -> Hypergradient | None:
    r"""Reverse mode through `count` SGD steps on the matching loss and one on the task loss (Jang et al. 2019).

    A step is $v^+ = \mu v + g + w\theta$, $\theta^+ = \theta - \eta v^+$. With a, b the derivatives of the last task
    loss with respect to $\theta^+$ and $v^+$ from later steps, $u = b - \eta a$ is the whole derivative with respect
    to $v^+$. The step passes on $a + w u + \nabla_\theta \langle g, u \rangle$ and $\mu u$, and the derivative of
    $\langle g, u \rangle$ with respect to the weights is theirs. Parameters without a gradient are not moved by a step,
    as in `torch.optim.SGD`.
    """
    replay = bilevel.replay
    rho = [r.detach().clone().requires_grad_() for r in bilevel.importance]
    meta = [*rho, *bilevel.aligners]
    velocity = list(steps.velocity or [None] * len(replay.parameters))
    trail, start, before = [], bilevel.importance, torch.zeros(())
    for number in range(steps.count + 1):
        trail.append([p.detach().clone() for p in replay.parameters])
        if number < steps.count:
            with replay.evaluation(grad=True):
                measured = bilevel.measure()
                start = [d.detach() for d in measured] if number == 0 else start
                gradient = averaged(_gradient(bilevel.match(rho, measured), replay.parameters))
        else:
            before, gradient = bilevel.task_gradient()
        _sgd(replay.parameters, velocity, gradient, steps)
    after, last = bilevel.task_gradient()
    if not bool(after < before):
        warnings.warn(
            f"the virtual step on the task loss raised it from {float(before):.4g} to {float(after):.4g}, so its "
            f"hypergradient would tell of overshoot, and none is used. Lower inner_lr (now {steps.lr:.3g}).",
            KDInpaintWarning,
            stacklevel=4,
        )
        return None

    a = _filled(last, replay.parameters)
    b = [torch.zeros_like(p) for p in replay.parameters]
    found = [torch.zeros_like(m) for m in meta]
    for number in reversed(range(steps.count + 1)):
        replay.move(trail.pop())
        with replay.evaluation(grad=True):
            loss = bilevel.match(rho, bilevel.measure()) if number < steps.count else bilevel.task()  # type: ignore[misc]
            gradient = _gradient(loss, replay.parameters, create_graph=True)
            moved = [g is not None for g in gradient]
            u = [db - steps.lr * da for da, db in zip(a, b, strict=True)]
            product = sum(
                ((g * du).sum() for g, du in zip(gradient, u, strict=True) if g is not None), start=torch.zeros(())
            )
            back = _gradient(product, [*replay.parameters, *meta])
        # The step followed the gradient of the whole batch; what there is to know of its own samples stays here.
        back[: len(a)] = averaged(back[: len(a)])
        for index, own in enumerate(moved):
            if own:
                a[index] = a[index] + steps.weight_decay * u[index]
                b[index] = steps.momentum * u[index]
            curvature = back[index]
            if curvature is not None:
                a[index] = a[index] + curvature
        for total, part in zip(found, back[len(a) :], strict=True):
            if part is not None:
                total += part
    return Hypergradient(found[: len(rho)], found[len(rho) :], list(start))


@torch.no_grad()
def _sgd(
    parameters: Sequence[Tensor],
    velocity: list[Tensor | None],
    gradient: Sequence[Tensor | None],
    steps: VirtualSteps,
) -> None:
    for index, (parameter, g) in enumerate(zip(parameters, gradient, strict=True)):
        if g is None:
            continue
        held = velocity[index]
        new = g + steps.weight_decay * parameter + (0 if held is None else steps.momentum * held)
        velocity[index] = new
        parameter.sub_(new, alpha=steps.lr)


def _step(parameters: Sequence[Tensor], direction: Sequence[Tensor | None], epsilon: float) -> float | None:
    """How far to go along v, or None if it leads nowhere."""
    moved = [v for _, v in zip(parameters, direction, strict=True) if v is not None]
    norm = math.sqrt(sum(float(v.float().square().sum()) for v in moved))
    return epsilon / norm if math.isfinite(norm) and norm > 0 else None


def _both_sides(
    replay: Replay,
    distances: Callable[[], Sequence[Tensor]],
    direction: Sequence[Tensor | None],
    step: float,
    *,
    grad: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Distances at theta + e v and theta - e v; the parameters are at theta afterwards."""
    sides: list[list[Tensor]] = []
    for sign in (1, -1):
        replay.shift(direction, sign * step)
        with replay.evaluation(grad=grad):
            sides.append([d.to(torch.promote_types(d.dtype, torch.float32)) for d in distances()])
    replay.move(replay.origin)
    return sides[0], sides[1]


def _products(plus: list[Tensor], minus: list[Tensor], step: float) -> list[Tensor]:
    return [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]


def _gradient(loss: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """Gradients, None where the loss does not depend on an input."""
    free = [t for t in inputs if t.requires_grad]
    if not loss.requires_grad or not free:
        return [None] * len(inputs)
    found = iter(torch.autograd.grad(loss, free, create_graph=create_graph, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _filled(gradient: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, like, strict=True)]
