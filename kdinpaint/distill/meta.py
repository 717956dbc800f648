"""Meta-learning of channel importance: a channel deserves weight if imitating it serves the task."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.health import importance_health

__all__ = ["MetaLearner", "MetaMethod", "channel_alignment"]

MetaMethod = Literal["align"]


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
            not update statistics or draw random numbers.
        parameters: theta.
        direction: v, one tensor (or None, for zero) a parameter.
        epsilon: Length of the step in parameter space; 1e-4 to 1e-2 is accurate in float32.

    Returns:
        One (B, C) tensor a level, float32 or wider; None if v is zero or not finite.
    """
    sides = _both_sides(distances, parameters, direction, epsilon)
    return None if sides is None else _products(*sides)


@torch.no_grad()
def _both_sides(
    distances: Callable[[], Sequence[Tensor]],
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor | None],
    epsilon: float,
) -> tuple[list[Tensor], list[Tensor], float] | None:
    """Distances at theta + e v and theta - e v, and e."""
    moved = [(p, v) for p, v in zip(parameters, direction, strict=True) if v is not None]
    norm = math.sqrt(sum(float(v.float().square().sum()) for _, v in moved))
    if not math.isfinite(norm) or norm == 0:
        return None
    step = epsilon / norm
    saved = [p.clone() for p, _ in moved]
    sides: list[list[Tensor]] = []
    try:
        for sign in (1, -1):
            for (parameter, v), origin in zip(moved, saved, strict=True):
                parameter.copy_(origin).add_(v, alpha=sign * step)
            with torch.autocast(moved[0][0].device.type, enabled=False):
                sides.append([d.to(torch.promote_types(d.dtype, torch.float32)) for d in distances()])
    finally:
        for (parameter, _), origin in zip(moved, saved, strict=True):
            parameter.copy_(origin)
    return sides[0], sides[1], step


def _products(plus: list[Tensor], minus: list[Tensor], step: float) -> list[Tensor]:
    return [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]


class MetaLearner:
    r"""Trains importance predictors so that distillation serves the task (bilevel, first order).

    Weights $\rho$ enter the distillation loss linearly and do not depend on the student $\theta$, so the task
    loss after one virtual step on it changes by

    $$\frac{\partial L_{task}}{\partial \rho_{bc}} \propto -\lambda\,\langle \nabla_\theta d_{bc}, v \rangle,
    \qquad v = \nabla_\theta L_{task}.$$

    method="align" takes v at the present parameters, which an ordinary training step computes anyway;
    the products come from two forward passes without gradients (`channel_alignment`). No second derivative is
    needed, so any operator will do. Predictors are trained nowhere else: trained jointly with the loss they
    weight, they move all weight to the channel that is easiest to match.

    Call `step` between `backward()` and `optimizer.step()`, as the example does.

    Args:
        predictors: Parameters of the importance predictors.
        method: "align".
        every: Update on every this many steps.
        lr: Of Adam on the predictors; 1e-4 for long runs, 1e-3 below about 20,000 steps.
        weight_decay: Of the same.
        epsilon: See `channel_alignment`.

    Raises:
        ConfigError: No predictor parameters, or `every` below 1.

    Example:
        >>> import torch
        >>> from kdinpaint import CrossDistillLoss, MetaLearner
        >>> encoder, head = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 1)
        >>> cross = CrossDistillLoss([8])
        >>> meta = MetaLearner(cross.predictors.parameters(), every=1, lr=1e-2)
        >>> image, mask = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
        >>> teacher = [torch.randn(2, 8, 16, 16)]
        >>> feature = encoder(image * (1 - mask))
        >>> task = (head(feature) - image).abs().mean()
        >>> parameters = list(encoder.parameters())
        >>> v = torch.autograd.grad(task, parameters, retain_graph=True)
        >>> (task + 0.1 * cross([feature], teacher, mask)).backward()
        >>> health = meta.step(
        ...     parameters=parameters,
        ...     direction=v,
        ...     distances=lambda: cross.distances([encoder(image * (1 - mask))], teacher, mask),
        ...     importance=cross.importance(teacher, mask),
        ... )
        >>> round(health["effective_share"], 3)
        1.0
    """

    def __init__(
        self,
        predictors: Iterable[torch.nn.Parameter],
        *,
        method: MetaMethod = "align",
        every: int = 10,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        epsilon: float = 0.01,
    ) -> None:
        check_choice(method, ("align",), "method")
        self.predictors = list(predictors)
        if not self.predictors:
            raise ConfigError("there are no predictor parameters to train; build the losses with importance='learned'.")
        if every < 1:
            raise ConfigError(f"every is {every}; expected at least 1.")
        self.method: MetaMethod = method
        self.every = every
        self.epsilon = epsilon
        self.optimizer = torch.optim.Adam(self.predictors, lr=lr, weight_decay=weight_decay)

    def due(self, step: int) -> bool:
        """Whether to update the predictors at this step, counted from 0."""
        return step % self.every == 0

    def step(
        self,
        *,
        parameters: Sequence[Tensor],
        direction: Sequence[Tensor | None],
        distances: Callable[[], Sequence[Tensor]],
        importance: Sequence[Tensor],
        weights: Sequence[float] | None = None,
    ) -> dict[str, float] | None:
        """Update the predictors once.

        Args:
            parameters: Of the student, those the distances depend on.
            direction: Gradient of the task loss with respect to each of them, or None.
            distances: Evaluates the unweighted distances, one (B, C) a level; called twice, see
                `channel_alignment`. Targets must be held fixed.
            importance: Weights rho, one (B, C) a level, attached to the predictors.
            weights: The factor with which each level enters the student's loss; 1 by default.

        Returns:
            Health of the importance before the update (see `kdinpaint.distill.importance_health`); None if no
            update was made because the direction is zero or something is not finite.

        Raises:
            ShapeError: Distances and importance do not fit each other.
        """
        sides = _both_sides(distances, parameters, direction, self.epsilon)
        if sides is None:
            return None
        products = _products(*sides)
        if not all(bool(torch.isfinite(p).all()) for p in products):
            return None
        factors = [1.0] * len(products) if weights is None else list(weights)
        shapes = [tuple(p.shape) for p in products], [tuple(r.shape) for r in importance]
        if shapes[0] != shapes[1] or len(factors) != len(products):
            raise ShapeError(
                f"distances are {shapes[0]}, importance {shapes[1]} and there are {len(factors)} weights; "
                f"expected one (B, C) and one weight a level."
            )
        gradients = [-factor / p.shape[0] * p for factor, p in zip(factors, products, strict=True)]
        # Adam ignores the scale of the hypergradient, weight decay does not: fix it at a root mean square of 1.
        scale = torch.cat([g.flatten() for g in gradients]).square().mean().sqrt().clamp_min(1e-30)
        cotangents = [(g / scale).to(r.dtype) for g, r in zip(gradients, importance, strict=True)]
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(list(importance), cotangents, inputs=self.predictors)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return importance_health(importance, [(a + b) / 2 for a, b in zip(*sides[:2], strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser; the predictors are saved with the losses that own them."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
