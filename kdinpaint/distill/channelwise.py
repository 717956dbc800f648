"""What cross and self distillation share: channel-wise distances inside the hole, scaled, weighted, averaged."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice, check_feature, check_level_lists, check_mask
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.cells import Region, block_mean, cell_weights
from kdinpaint.distill.importance import ImportancePool, TransferImportancePredictor
from kdinpaint.distill.running import RunningStd
from kdinpaint.ops.masks import MaskResize, resize_mask
from kdinpaint.ops.reduce import masked_channel_mean, weighted_channel_sum

__all__ = ["ChannelDistillLoss", "Distance", "DistanceReduction", "DistanceScale", "Importance", "LevelWeights"]

Importance = Literal["learned", "uniform"]
Distance = Literal["mse", "smooth_l1", "cosine", "heteroscedastic"]
DistanceScale = Literal["none", "teacher_std"]
DistanceReduction = Literal["mean", "sum"]
LevelWeights = Sequence[float] | Literal["learned"]


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
        level_weights: One factor per pair, 1 by default; "learned" multiplies each pair with a weight in (0, 2) that
            is trained as the predictors are, and 1 when fresh.
        floor: Of the predictors.
        temperature: Of the predictors.
        pool: Of the predictors.
        joint: Let the loss train the predictors. It collapses them (see `MetaLearner`); for ablations only.
        distance: See `CrossDistillLoss`.
        region: See `CrossDistillLoss`. May be assigned later: a schedule is a matter of the caller.
        rim: See `CrossDistillLoss`.
        low_pass: See `CrossDistillLoss`.
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
        level_weights: LevelWeights | None = None,
        floor: float = 0.1,
        temperature: float = 1.0,
        pool: ImportancePool = "all",
        joint: bool = False,
        distance: Distance = "mse",
        region: Region = "hole",
        rim: float | None = None,
        low_pass: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(importance, get_args(Importance), "importance")
        check_choice(scale, get_args(DistanceScale), "scale")
        check_choice(reduction, get_args(DistanceReduction), "reduction")
        check_choice(distance, get_args(Distance), "distance")
        check_choice(region, get_args(Region), "region")
        if low_pass < 1 or (rim is not None and rim <= 0):
            raise ConfigError(
                f"low_pass is {low_pass} and rim {rim}; expected a factor of at least 1, a length above 0."
            )
        fixed = (
            [1.0] * len(channels)
            if level_weights is None or isinstance(level_weights, str)
            else [float(weight) for weight in level_weights]
        )
        if isinstance(level_weights, str):
            check_choice(level_weights, ("learned",), "level_weights")
        if not channels or len(fixed) != len(channels):
            raise ConfigError(
                f"got {len(channels)} pairs of levels and {len(fixed)} level_weights; expected at least one "
                f"pair and one weight each."
            )
        self.channels = tuple(channels)
        self.level_weights = tuple(fixed)
        self.importance_kind: Importance = importance
        self.reduction: DistanceReduction = reduction
        self.mask_resize: MaskResize = mask_resize
        self.joint = joint
        self.distance: Distance = distance
        self.region: Region = region
        self.rim = rim
        self.low_pass = low_pass
        self.predictors = nn.ModuleList(
            TransferImportancePredictor(c, floor=floor, temperature=temperature, pool=pool, device=device, dtype=dtype)
            for c in (channels if importance == "learned" else ())
        )
        self.level_logits = (
            nn.Parameter(torch.zeros(len(channels), device=device, dtype=dtype)) if level_weights == "learned" else None
        )
        self.scales = nn.ModuleList(RunningStd(c, 0.01, device) for c in (channels if scale == "teacher_std" else ()))
        self.residuals = nn.ModuleList(
            RunningStd(c, 0.01, device) for c in (channels if distance == "heteroscedastic" else ())
        )

    def meta_parameters(self) -> list[nn.Parameter]:
        """What `importance` depends on and a `MetaLearner` trains: predictors, and weights of levels if learned."""
        return [*self.predictors.parameters(), *([] if self.level_logits is None else [self.level_logits])]

    def observe(self, targets: Sequence[Tensor]) -> None:
        """Update the running scales; `forward` does so in training mode."""
        for scale, target in zip(self.scales, targets, strict=False):
            scale.update(target)  # type: ignore[operator]

    def importance(self, targets: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Weights (B, C) of the distances of each pair, differentiable with respect to `meta_parameters`.

        They sum to 1 over channels unless weights of levels are learned or the distance is heteroscedastic: the loss
        is linear in both, so they are factors of these weights.
        """
        if self.predictors:
            weights = [predict(t, mask) for predict, t in zip(self.predictors, targets, strict=True)]
        else:
            weights = [t.new_full(t.shape[:2], 1 / t.shape[1]) for t in targets]
        if self.level_logits is not None:
            weights = [rho * level for rho, level in zip(weights, 2 * self.level_logits.sigmoid(), strict=True)]
        if self.residuals:
            precision = [residual.inverse().square() for residual in self.residuals]  # type: ignore[operator]
            weights = [rho * p for rho, p in zip(weights, precision, strict=True)]
        return weights

    def combine(self, weights: Sequence[Tensor], distances: Sequence[Tensor]) -> Tensor:
        """The scalar loss from channel weights and distances, both one (B, C) a pair.

        In training mode, a heteroscedastic loss takes in the distances as the present variance of each channel.
        """
        if self.training:
            for residual, distance in zip(self.residuals, distances, strict=False):
                # Samples without a hole say nothing.
                residual.update_mean(distance.detach())  # type: ignore[operator]
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
        """Distances over the cells of the region, (B, C) a pair."""
        self._check_levels(targets)
        check_mask(mask, targets[0], same_size=False)
        check_level_lists(students, targets, ("student", "teacher"))
        result = []
        for level, (student, target) in enumerate(zip(students, targets, strict=True)):
            hole = resize_mask(mask, (target.shape[-2], target.shape[-1]), mode=self.mask_resize)
            weight = cell_weights(hole, region=self.region, rim=self.rim)
            difference = self._difference(student, target, level)
            if self.low_pass > 1:
                difference, weight = block_mean(difference, weight, self.low_pass)
            cost = self._cost(difference)
            if self.reduction == "mean":
                result.append(masked_channel_mean(cost, weight))
            else:
                wide = torch.promote_types(cost.dtype, torch.float32)
                result.append((cost * weight.to(cost.dtype)).sum((-2, -1), dtype=wide))
        return result

    def _difference(self, student: Tensor, target: Tensor, level: int) -> Tensor:
        """What is to vanish, (B, C, H, W), in float32 at least: squares of float16 are soon infinite."""
        wide = torch.promote_types(torch.promote_types(student.dtype, target.dtype), torch.float32)
        student, target = student.to(wide), target.to(wide)
        inverse = self.scales[level].inverse(target)[..., None, None] if self.scales else None  # type: ignore[operator]
        if self.distance != "cosine":
            difference = student - target
            return difference if inverse is None else difference * inverse.to(wide)
        if inverse is not None:
            student, target = student * inverse.to(wide), target * inverse.to(wide)
        # |a - b|^2 of unit vectors is 2 (1 - cos); with weights 1/C the loss is then 1 - cos.
        return (F.normalize(student, dim=1) - F.normalize(target, dim=1)) * (student.shape[1] / 2) ** 0.5

    def _cost(self, difference: Tensor) -> Tensor:
        if self.distance == "smooth_l1":
            return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        return difference.square()

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
