"""Self distillation (Eq. 2): deeper levels of an encoder teach the shallower ones."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_feature
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.channelwise import (
    ChannelDistillLoss,
    DistanceReduction,
    DistanceScale,
    Importance,
    LevelWeights,
)
from kdinpaint.distill.importance import ImportancePool
from kdinpaint.layers.blocks import downsampling_conv
from kdinpaint.ops.masks import MaskResize

__all__ = ["SelfDistillLoss"]


class SelfDistillLoss(ChannelDistillLoss):
    r"""Channel-weighted distance between each level, aligned by a convolution, and the next deeper one.

    Eq. 2: $R^l_{self} = \sum_c \varphi^l_c(x_{l+1})\,\lVert (f_l(x_l) - x_{l+1})_c \odot M_{l+1} \rVert_2^2$ for
    $l = 1..L-1$. The aligners $f_l$ are single linear convolutions that train with the student and are not
    part of it: leave this module behind at deployment. The deeper feature is the teacher and is detached
    (`detach_target`); otherwise the cheapest way to agree is to make the deep features poor.

    Args:
        channels: Channels of each of the L levels.
        strides: Stride of the step from each level to the next (L-1 numbers), 2 by default.
        detach_target: Keep gradients from the deeper feature.
        importance: "learned" or "uniform".
        scale: "none", or "teacher_std" to divide by the deeper feature's running standard deviation.
        reduction: "mean" over hole cells and pairs, or "sum" of both; always the mean over the batch.
        mask_resize: "max", "nearest" or "area", see `kdinpaint.ops.resize_mask`.
        level_weights: One factor per pair (L-1), 1 by default; or "learned", see `CrossDistillLoss`.
        floor: See `kdinpaint.TransferImportancePredictor`.
        temperature: See `kdinpaint.TransferImportancePredictor`.
        pool: See `kdinpaint.TransferImportancePredictor`.
        joint: Let this loss train the predictors; it collapses them, for ablations only.
        device: Of parameters and buffers.
        dtype: Of the parameters.

    Raises:
        ConfigError: Fewer than two levels, or lists of the wrong length.

    Example:
        >>> import torch
        >>> from kdinpaint import SelfDistillLoss
        >>> loss = SelfDistillLoss([16, 32])
        >>> features = [torch.randn(2, 16, 32, 32), torch.randn(2, 32, 16, 16)]
        >>> loss(features, torch.ones(2, 1, 64, 64)).shape
        torch.Size([])
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        strides: Sequence[int] | None = None,
        detach_target: bool = True,
        importance: Importance = "learned",
        scale: DistanceScale = "none",
        reduction: DistanceReduction = "mean",
        mask_resize: MaskResize = "max",
        level_weights: LevelWeights | None = None,
        floor: float = 0.1,
        temperature: float = 1.0,
        pool: ImportancePool = "all",
        joint: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        steps = [2] * (len(channels) - 1) if strides is None else list(strides)
        if len(channels) < 2 or len(steps) != len(channels) - 1:
            raise ConfigError(
                f"got {len(channels)} levels and {len(steps)} strides; expected at least two levels and one "
                f"stride fewer than levels."
            )
        super().__init__(
            channels[1:],
            importance=importance,
            scale=scale,
            reduction=reduction,
            mask_resize=mask_resize,
            level_weights=level_weights,
            floor=floor,
            temperature=temperature,
            pool=pool,
            joint=joint,
            device=device,
            dtype=dtype,
        )
        self.detach_target = detach_target
        self.aligners = nn.ModuleList(
            downsampling_conv(shallow, deep, stride=stride, device=device, dtype=dtype)
            for shallow, deep, stride in zip(channels[:-1], channels[1:], steps, strict=True)
        )

    def forward(self, features: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss, a scalar >= 0, 0 for empty holes.

        Args:
            features: The L features of one encoder, shallow to deep, each (B, C_l, H_l, W_l).
            mask: (B, 1, H, W), 1 = hole, at least as large as the largest level. It is stretched over each level, so it
                must cover what the features cover: pad it as the network pads its input.

        Raises:
            ShapeError: Levels, channels or sizes do not fit.
        """
        distances = self.distances(features, mask)
        targets = self.targets(features)
        if self.training:
            self.observe(targets)
        weights = self.importance(targets, mask)
        return self.combine(weights if self.joint else [w.detach() for w in weights], distances)

    def targets(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The deeper feature of each pair, detached if `detach_target`."""
        return [f.detach() if self.detach_target else f for f in features[1:]]

    def distances(
        self, features: Sequence[Tensor], mask: Tensor, *, targets: Sequence[Tensor] | None = None
    ) -> list[Tensor]:
        """Unweighted distance of every channel, one (B, C_{l+1}) a pair.

        Args:
            features: As for `forward`.
            mask: As for `forward`.
            targets: Deeper features to compare with instead of those in `features`: a meta-learner that
                perturbs the student holds the targets fixed.
        """
        if not torch.compiler.is_compiling():
            if len(features) != len(self.aligners) + 1:
                raise ShapeError(f"got {len(features)} levels; this loss was built for {len(self.aligners) + 1}.")
            for level, (feature, align) in enumerate(zip(features[:-1], self.aligners, strict=True)):
                check_feature(feature, f"features[{level}]", channels=align.in_channels)  # type: ignore[arg-type]
        aligned = [align(f) for align, f in zip(self.aligners, features[:-1], strict=True)]
        return self._pair_distances(aligned, self.targets(features) if targets is None else targets, mask)
