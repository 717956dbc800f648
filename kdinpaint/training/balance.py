"""How the gradients of task and distillation share a network."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdinpaint._core.processes import averaged

__all__ = ["Balance", "balanced_loss", "mean_gradient", "scaled_gradient"]

Balance = Literal["none", "norm", "project"]


def balanced_loss(
    task: Tensor,
    total: Tensor,
    parameters: Sequence[Tensor],
    direction: Sequence[Tensor | None],
    *,
    mode: Balance,
    ratio: float = 0.5,
    loss_scale: float = 1.0,
) -> Tensor:
    """A scalar to call `backward` on instead of `total`, which is task + distillation.

    It is an ordinary loss, so gradient scaling and data-parallel averaging work on it as on any. In distributed
    training the gradients that are compared are those of the whole batch: average `direction` over processes before.

    Args:
        task: The task loss.
        total: The task loss and the weighted distillation losses.
        parameters: Those that both depend on.
        direction: Gradient of the task loss with respect to each of them, or None.
        mode: "norm" gives the distillation gradient `ratio` times the norm of the task gradient, over these parameters:
            its strength then holds through training and across networks. "project" takes from the distillation gradient
            the part that points against the task gradient, if there is one (Yu et al. 2020, "Gradient Surgery", with
            the task unchanged). "none" is `total`.
        ratio: See "norm".
        loss_scale: Factor at which gradients are computed, so that they do not vanish in float16.

    Returns:
        A scalar of the value of `total` ("project") or of the task loss and the rescaled distillation ("norm").
    """
    if mode == "none":
        return total
    distill = total - task
    found = averaged(scaled_gradient(distill, parameters, loss_scale))
    pairs = [(p, v, g) for p, v, g in zip(parameters, direction, found, strict=True) if v is not None and g is not None]
    if not pairs:
        return total
    ahead = torch.stack([v.float().square().sum() for _, v, _ in pairs]).sum()
    if mode == "norm":
        norm = torch.stack([g.float().square().sum() for _, _, g in pairs]).sum()
        factor = torch.where(norm > 0, ratio * (ahead / norm.clamp_min(1e-30)).sqrt(), 0.0)
        return task + factor * distill
    along = torch.stack([(v.float() * g.float()).sum() for _, v, g in pairs]).sum()
    share = along.clamp_max(0.0) / ahead.clamp_min(1e-30)
    # Its gradient with respect to p is v.
    carrier = torch.stack([(p * v).sum() for p, v, _ in pairs]).sum()
    return total - share * (carrier - carrier.detach())


def scaled_gradient(loss: Tensor, parameters: Sequence[Tensor], loss_scale: float) -> list[Tensor | None]:
    """The gradient of a loss, computed at `loss_scale` times its size; the graph stays."""
    if loss_scale == 1.0:
        return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))
    found = torch.autograd.grad(loss * loss_scale, parameters, retain_graph=True, allow_unused=True)
    return [None if g is None else g / loss_scale for g in found]


def mean_gradient(tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Mean of the gradients of one parameter, one a part of a batch; None if there is none."""
    found = [t for t in tensors if t is not None]
    if len(found) < 2:
        return found[0] if found else None
    return sum(found[1:], start=found[0]) / len(found)
