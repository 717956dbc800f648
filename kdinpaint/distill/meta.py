"""Meta-learning of what to imitate: a channel deserves weight if imitating it serves the task."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError
from kdinpaint._core.processes import averaged, summed
from kdinpaint.distill.health import importance_health
from kdinpaint.distill.hypergradient import Bilevel, Hypergradient, VirtualSteps, aligned, looked_ahead, unrolled
from kdinpaint.distill.replay import Replay

__all__ = ["MetaLearner", "MetaMethod"]

MetaMethod = Literal["align", "lookahead", "l2t"]


class MetaLearner:
    r"""Trains importance predictors so that distillation serves the task (bilevel optimisation).

    The student $\theta$ descends a matching loss $L_m(\theta, \rho) = \sum_l \lambda_l \frac{1}{B} \sum_{bc}
    \rho^l_{bc} d^l_{bc}(\theta)$; the predictors behind $\rho$ descend the task loss $L_o$ of the student that results.
    The three methods differ in which student that is, and so in cost (in forward passes F of the student, where
    an ordinary step is about 3 F; the page "Forms of distillation" has measured ones):

    - "align": after an infinitesimal step, $\partial L_o / \partial \rho_{bc} \propto -\lambda \langle \nabla_\theta
      d_{bc}, v \rangle$ with $v = \nabla L_o(\theta)$. All products come from two forward passes without gradients
      (`kdinpaint.distill.channel_alignment`). First order: any operator will do. 2 F, and 2 F for v.
    - "lookahead": after one step of length `inner_lr`, the same with v at $\theta - \eta \nabla_\theta L_m$: exact for
      that step, still first order. 8 F.
    - "l2t": after `inner_steps` SGD steps on $L_m$ and one on $L_o$, exactly, in reverse mode (Jang et al. 2019,
      "Learning What and Where to Transfer"). Needs operators that can be differentiated twice, as
      `kdinpaint.adaptive_conv2d` can, and memory for one second-order graph and `inner_steps` + 1 copies of the
      parameters. About 33 F for two steps.

    Predictors are trained nowhere else: trained jointly with the loss they weight, they move all weight to the channel
    that is easiest to match. Targets and $\rho$ are those of the present student throughout.

    Call `step` between `backward()` and `optimizer.step()`, as the example does. It evaluates what it is given at
    other parameters and goes back: parameters, buffers of `modules`, random numbers and `.grad` are afterwards what
    they were, bit for bit, also after an error. Every evaluation draws the same random numbers, starts from the same
    buffers, and runs without autocast. In distributed training every process calls it with its share of the batch,
    and all make the update that one process would make with the whole batch.

    Args:
        predictors: What the importance depends on: `meta_parameters()` of the losses.
        aligners: What the distances depend on beside the student: `CrossDistillLoss.aligner_parameters()`.
        method: "align", "lookahead" or "l2t".
        every: Update on every this many steps.
        lr: Of Adam on all of these; 1e-4 for long runs, 1e-3 below about 20,000 steps.
        weight_decay: Of the same.
        epsilon: See `kdinpaint.distill.channel_alignment`.
        inner_lr: Learning rate of the virtual steps ("lookahead", "l2t"). Too long a step measures overshoot: "l2t"
            warns and makes no update where its step on the task loss does not lower it.
        inner_steps: Virtual steps on the matching loss ("l2t").
        inner_momentum: Of the virtual steps ("l2t").
        inner_weight_decay: Of the virtual steps ("l2t").

    Raises:
        ConfigError: Nothing to train, an unknown method, or a number out of range.

    Example:
        >>> import torch
        >>> from kdinpaint import CrossDistillLoss, MetaLearner
        >>> encoder, head = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 1)
        >>> cross = CrossDistillLoss([8])
        >>> meta = MetaLearner(cross.meta_parameters(), every=1, lr=1e-2)
        >>> image, mask = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
        >>> teacher = [torch.randn(2, 8, 16, 16)]
        >>> def loss():
        ...     feature = encoder(image * (1 - mask))
        ...     return (head(feature) - image).abs().mean(), feature
        >>> task, feature = loss()
        >>> parameters = list(encoder.parameters())
        >>> v = torch.autograd.grad(task, parameters, retain_graph=True)
        >>> (task + 0.1 * cross([feature], teacher, mask)).backward()
        >>> health = meta.step(
        ...     parameters=parameters,
        ...     distances=lambda: cross.distances([loss()[1]], teacher, mask),
        ...     importance=cross.importance(teacher, mask),
        ...     direction=v,  # for "lookahead" and "l2t": task=lambda: loss()[0]
        ... )
        >>> round(health["effective_share"], 3)
        1.0
    """

    def __init__(
        self,
        predictors: Iterable[nn.Parameter],
        *,
        aligners: Iterable[nn.Parameter] = (),
        method: MetaMethod = "align",
        every: int = 10,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        epsilon: float = 0.01,
        inner_lr: float = 1e-3,
        inner_steps: int = 2,
        inner_momentum: float = 0.0,
        inner_weight_decay: float = 0.0,
    ) -> None:
        check_choice(method, get_args(MetaMethod), "method")
        self.predictors = list(predictors)
        self.aligners = list(aligners)
        if not self.predictors and not self.aligners:
            raise ConfigError("there are no predictor parameters to train; build the losses with importance='learned'.")
        if every < 1 or inner_steps < 1 or inner_lr <= 0:
            raise ConfigError(
                f"every is {every}, inner_steps {inner_steps} and inner_lr {inner_lr}; expected at least 1 step, and a "
                f"rate above 0."
            )
        self.method: MetaMethod = method
        self.every = every
        self.epsilon = epsilon
        self.inner = VirtualSteps(inner_lr, inner_steps, inner_momentum, inner_weight_decay)
        self.optimizer = torch.optim.Adam([*self.predictors, *self.aligners], lr=lr, weight_decay=weight_decay)
        self._pending: list[tuple[list[Tensor], Hypergradient]] = []

    def due(self, step: int) -> bool:
        """Whether to update the predictors at this step, counted from 0."""
        return step % self.every == 0

    def step(
        self,
        *,
        parameters: Sequence[Tensor],
        distances: Callable[[], Sequence[Tensor]],
        importance: Sequence[Tensor],
        weights: Sequence[float] | None = None,
        direction: Sequence[Tensor | None] | None = None,
        task: Callable[[], Tensor] | None = None,
        modules: Iterable[nn.Module] = (),
        velocity: Sequence[Tensor | None] | None = None,
        update: bool = True,
    ) -> dict[str, float] | None:
        """Update the predictors once.

        Args:
            parameters: Of the student: for "align" and "lookahead" those the distances depend on; for "l2t" all that
                its virtual steps are to move, those included that only the task loss depends on.
            distances: Evaluates the unweighted distances at the present parameters, one (B, C) a level. Targets must be
                held fixed.
            importance: Weights rho, one (B, C) a level, attached to the predictors.
            weights: The factor with which each level enters the student's loss; 1 by default.
            direction: Gradient of the task loss with respect to each parameter, or None: for "align" alone, instead of
                `task`, because an ordinary step has computed it anyway. Of the process's own share in distributed
                training: the shares are averaged here. With gradient accumulation, that of the whole batch.
            task: Evaluates the task loss at the present parameters, a scalar.
            modules: Modules whose buffers an evaluation changes, such as batch statistics.
            velocity: Momentum buffers for the virtual steps of "l2t" to start from, one (or None) a parameter; zeros by
                default. They are read only.
            update: False adds this batch's hypergradient to the next call's: with gradient accumulation, pass True with
                the last part of a batch alone.

        Returns:
            Health of the importance before the update (see `kdinpaint.distill.importance_health`); None if
            this batch gave no hypergradient because the direction is zero, something is not finite (on any process),
            or a virtual step overshot.

        Raises:
            ConfigError: Neither task nor direction, or direction alone for a method that looks ahead.
            ShapeError: Distances and importance do not fit each other.
        """
        if task is None and (direction is None or self.method != "align"):
            raise ConfigError(
                f"method {self.method!r} evaluates the task loss itself; pass task=, a callable that returns it"
                f"{' (or its gradient as direction=)' if self.method == 'align' else ''}."
            )
        self.inner.velocity = velocity
        factors = [1.0] * len(importance) if weights is None else list(weights)
        with Replay(parameters, modules) as replay:
            bilevel = Bilevel(replay, distances, [r.detach() for r in importance], factors, task, self.aligners)
            if self.method == "l2t":
                found = unrolled(bilevel, self.inner)
            elif self.method == "lookahead":
                found = looked_ahead(bilevel, self.inner, self.epsilon)
            else:
                given = bilevel.task_gradient()[1] if direction is None else averaged(direction)
                found = aligned(bilevel, given, self.epsilon)
        usable = _everywhere(found is not None and found.finite, parameters)
        if usable and found is not None:
            self._pending.append((list(importance), found))
        if update and self._pending:
            self._update()
        return importance_health(importance, found.distances) if usable and found is not None else None

    def _update(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        # Adam ignores the scale of the hypergradient, weight decay does not: fix it at a root mean square of 1.
        scale = _root_mean_square([g for _, found in self._pending for g in found.importance])
        learned = [
            (rho, (g / scale).to(rho.dtype))
            for importance, found in self._pending
            for rho, g in zip(importance, found.importance, strict=True)
            if rho.requires_grad
        ]
        if learned and self.predictors:
            roots, cotangents = [r for r, _ in learned], [g for _, g in learned]
            # Not `backward`, which would set off the hooks of data-parallel wrappers outside of their pass.
            with torch.autocast(self.predictors[0].device.type, enabled=False):
                slopes = torch.autograd.grad(roots, self.predictors, cotangents, allow_unused=True)
            found = iter(summed([slope for slope in slopes if slope is not None]))
            for predictor, slope in zip(self.predictors, slopes, strict=True):
                predictor.grad = None if slope is None else next(found)
        if self.aligners:
            totals = summed(
                [torch.stack(parts).sum(0) for parts in zip(*(f.aligners for _, f in self._pending), strict=True)]
            )
            scale = _root_mean_square(totals)
            for aligner, total in zip(self.aligners, totals, strict=True):
                aligner.grad = (total / scale).to(aligner.dtype)
        self._pending.clear()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser; the predictors are saved with the losses that own them."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])


def _everywhere(good: bool, like: Sequence[Tensor]) -> bool:
    """Whether all processes say so: none may go on alone to where the others are waited for."""
    failures = summed([torch.tensor(float(not good), device=like[0].device)])[0]
    return not bool(failures)


def _root_mean_square(tensors: Sequence[Tensor]) -> Tensor:
    """Of all entries of all processes."""
    flat = torch.cat([t.flatten() for t in tensors])
    square, count = summed([flat.square().sum(), flat.new_tensor(float(flat.numel()))])
    return (square / count).sqrt().clamp_min(1e-30)
