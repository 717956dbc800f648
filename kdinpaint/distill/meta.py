"""Meta-learning of channel importance: a channel deserves weight if imitating it serves the task."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, ShapeError

__all__ = ["MetaLearner", "MetaMethod", "channel_alignment"]

MetaMethod = Literal["align"]


@torch.no_grad()
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
    moved = [(p, v) for p, v in zip(parameters, direction, strict=True) if v is not None]
    norm = math.sqrt(sum(float(v.float().square().sum()) for _, v in moved))
    if not moved or not math.isfinite(norm) or norm == 0:
        return None
    step = epsilon / norm
    saved = [p.clone() for p, _ in moved]
    sides: list[Sequence[Tensor]] = []
    device = moved[0][0].device.type
    try:
        for sign in (1, -1):
            for (parameter, v), origin in zip(moved, saved, strict=True):
                parameter.copy_(origin).add_(v, alpha=sign * step)
            with torch.autocast(device, enabled=False):
                sides.append(distances())
    finally:
        for (parameter, _), origin in zip(moved, saved, strict=True):
            parameter.copy_(origin)
    return [
        (a.to(torch.promote_types(a.dtype, torch.float32)) - b) / (2 * step)
        for a, b in zip(*sides, strict=True)
    ]


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
        >>> meta.step(
        ...     parameters=parameters,
        ...     direction=v,
        ...     distances=lambda: cross.distances([encoder(image * (1 - mask))], teacher, mask),
        ...     importance=cross.importance(teacher, mask),
        ... )
        True
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
    ) -> bool:
        """Update the predictors once.

        Args:
            parameters: Of the student, those the distances depend on.
            direction: Gradient of the task loss with respect to each of them, or None.
            distances: Evaluates the unweighted distances, one (B, C) a level; called twice, see
                `channel_alignment`. Targets must be held fixed.
            importance: Weights rho, one (B, C) a level, attached to the predictors.
            weights: The factor with which each level enters the student's loss; 1 by default.

        Returns:
            Whether an update was made: none is when the direction is zero or not finite.

        Raises:
            ShapeError: Distances and importance do not fit each other.
        """
        products = channel_alignment(distances, parameters, direction, epsilon=self.epsilon)
        if products is None or not all(bool(torch.isfinite(p).all()) for p in products):
            return False
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
        return True

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser; the predictors are saved with the losses that own them."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
