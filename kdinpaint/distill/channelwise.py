"""What cross and self distillation share: channel-wise distances inside the hole, scaled, weighted, averaged."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_feature, check_level_lists, check_mask
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.importance import ImportancePool, TransferImportancePredictor
from kdinpaint.ops.masks import MaskResize, resize_mask
from kdinpaint.ops.reduce import masked_channel_mean, weighted_channel_sum

__all__ = ["ChannelDistillLoss", "DistanceReduction", "DistanceScale", "Importance"]

Importance = Literal["learned", "uniform"]
DistanceScale = Literal["none", "teacher_std"]
DistanceReduction = Literal["mean", "sum"]


class RunningStd(nn.Module):
    """Running per-channel standard deviation of a feature, kept as a buffer; 1 before the first update."""

    var: Tensor
    updates: Tensor

    def __init__(self, channels: int, momentum: float, device: torch.device | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("var", torch.ones(channels, device=device))
        self.register_buffer("updates", torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, feature: Tensor) -> None:
        """Take in the variance over batch and positions; the first update replaces the initial value."""
        var = feature.float().var((0, 2, 3), correction=0).to(self.var.dtype)
        rate = torch.where(self.updates == 0, 1.0, self.momentum).to(self.var.dtype)
        self.var.lerp_(var, rate)
        self.updates.add_(1)

    def inverse(self) -> Tensor:
        """1 / std, (C,); channels that hardly vary are not amplified beyond ten times the average."""
        return (self.var + 0.01 * self.var.mean()).clamp_min(1e-12).rsqrt()


class ChannelDistillLoss(nn.Module):
    """Base of `CrossDistillLoss` and `SelfDistillLoss`: everything but where the pairs come from.

    Args:
        channels: Channels of the target of each pair.
        importance: "learned" predicts channel weights from the target; "uniform" fixes them at 1/C.
        scale: "teacher_std" divides by the target's running per-channel standard deviation, so that loud
            channels do not dominate and loss weights carry over between networks; "none" is the bare equation.
        reduction: "mean" averages over hole cells and levels; "sum" sums both, which is the bare equation
            and grows with area and resolution. Both average over the batch.
        mask_resize: As `mode` of `kdinpaint.ops.resize_mask`.
        level_weights: One factor per pair; 1 by default.
        floor: Of the predictors.
        temperature: Of the predictors.
        pool: Of the predictors.
        joint: Let the loss train the predictors. It collapses them (see `MetaLearner`); for ablations only.
        device: Of parameters and buffers.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        importance: Importance = "learned",
        scale: DistanceScale = "none",
        reduction: DistanceReduction = "mean",
        mask_resize: MaskResize = "max",
        level_weights: Sequence[float] | None = None,
        floor: float = 0.1,
        temperature: float = 1.0,
        pool: ImportancePool = "all",
        joint: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(importance, ("learned", "uniform"), "importance")
        check_choice(scale, ("none", "teacher_std"), "scale")
        check_choice(reduction, ("mean", "sum"), "reduction")
        weights = [1.0] * len(channels) if level_weights is None else [float(w) for w in level_weights]
        if not channels or len(weights) != len(channels):
            raise ConfigError(
                f"got {len(channels)} pairs of levels and {len(weights)} level_weights; expected at least one "
                f"pair and one weight each."
            )
        self.channels = tuple(channels)
        self.level_weights = tuple(weights)
        self.importance_kind: Importance = importance
        self.reduction: DistanceReduction = reduction
        self.mask_resize: MaskResize = mask_resize
        self.joint = joint
        self.predictors = nn.ModuleList(
            TransferImportancePredictor(c, floor=floor, temperature=temperature, pool=pool, device=device, dtype=dtype)
            for c in (channels if importance == "learned" else ())
        )
        self.scales = nn.ModuleList(RunningStd(c, 0.01, device) for c in (channels if scale == "teacher_std" else ()))

    def observe(self, targets: Sequence[Tensor]) -> None:
        """Update the running scales; `forward` does so in training mode."""
        for scale, target in zip(self.scales, targets, strict=False):
            scale.update(target)  # type: ignore[operator]

    def importance(self, targets: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Channel weights (B, C) of each pair, differentiable with respect to the predictors."""
        if not self.predictors:
            return [t.new_full(t.shape[:2], 1 / t.shape[1]) for t in targets]
        return [predict(t, mask) for predict, t in zip(self.predictors, targets, strict=True)]

    def combine(self, weights: Sequence[Tensor], distances: Sequence[Tensor]) -> Tensor:
        """The scalar loss from channel weights and distances, both one (B, C) a pair."""
        total = torch.stack(
            [
                factor * weighted_channel_sum(rho.to(d.dtype), d)
                for factor, rho, d in zip(self.level_weights, weights, distances, strict=True)
            ]
        ).sum()
        return total / len(self.channels) if self.reduction == "mean" else total

    def pair_weights(self) -> list[float]:
        """The factor with which each pair enters the loss."""
        share = len(self.channels) if self.reduction == "mean" else 1
        return [weight / share for weight in self.level_weights]

    def _pair_distances(self, students: Sequence[Tensor], targets: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Squared distances inside the hole, (B, C) a pair."""
        self._check_levels(targets)
        check_mask(mask, targets[0], same_size=False)
        check_level_lists(students, targets, ("student", "teacher"))
        result = []
        for level, (student, target) in enumerate(zip(students, targets, strict=True)):
            hole = resize_mask(mask, (target.shape[-2], target.shape[-1]), mode=self.mask_resize)
            difference = student - target
            if self.scales:
                difference = difference * self.scales[level].inverse()[:, None, None].to(difference.dtype)  # type: ignore[operator]
            squared = difference.square()
            if self.reduction == "mean":
                result.append(masked_channel_mean(squared, hole))
            else:
                wide = torch.promote_types(squared.dtype, torch.float32)
                result.append((squared * hole.to(squared.dtype)).sum((-2, -1), dtype=wide))
        return result

    def _check_levels(self, targets: Sequence[Tensor]) -> None:
        if torch.compiler.is_compiling():
            return
        if len(targets) != len(self.channels):
            raise ShapeError(
                f"got {len(targets)} levels; this loss was built for {len(self.channels)}, with channels "
                f"{self.channels}."
            )
        for level, (target, channels) in enumerate(zip(targets, self.channels, strict=True)):
            check_feature(target, f"level {level}", channels=channels)
