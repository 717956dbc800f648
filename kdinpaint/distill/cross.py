"""Cross distillation (Eq. 1): the encoder that saw the intact image teaches the one that did not."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice
from kdinpaint.distill.cells import Region
from kdinpaint.distill.channelwise import (
    ChannelDistillLoss,
    Distance,
    DistanceReduction,
    DistanceScale,
    Importance,
    LevelWeights,
)
from kdinpaint.distill.importance import ImportancePool
from kdinpaint.layers.blocks import ResidualBlock, readout_conv
from kdinpaint.ops.masks import MaskResize

__all__ = ["Aligner", "CrossDistillLoss"]

Aligner = Literal["none", "teacher", "student"]


class CrossDistillLoss(ChannelDistillLoss):
    r"""Channel-weighted distance to the teacher's features, inside the hole, level by level.

    Eq. 1: $R^l_{cross} = \sum_c \rho^l_c(x^*_l)\,\lVert (x_l - x^*_l)_c \odot M_l \rVert_2^2$ for $l = 1..L$, where
    $x_l$ is the student's feature, $x^*_l$ the teacher's on the uncorrupted image and $\rho$ a
    `TransferImportancePredictor`. The weights enter detached, and no gradient reaches the teacher: predictors
    are trained by `kdinpaint.MetaLearner` only. With reduction="sum" and scale="none" it is the equation to
    the letter; the default averages over hole cells and levels.

    The last four options ask for less than Eq. 1, because much of what the teacher knows inside a hole cannot be known
    from outside, and regressing to that is noise. They combine freely.

    Args:
        channels: Channels of each level.
        importance: "learned" or "uniform".
        scale: "none", or "teacher_std" to divide by the teacher's running per-channel standard deviation.
        reduction: "mean" over hole cells and levels, or "sum" of both; always the mean over the batch.
        mask_resize: "max", "nearest" or "area", see `kdinpaint.ops.resize_mask`.
        level_weights: One factor per level, 1 by default; or "learned": weights in (0, 2), 1 when fresh, that a
            `MetaLearner` trains. Channel weights sum to 1 and cannot switch off a level that is out of reach.
        floor: See `kdinpaint.TransferImportancePredictor`.
        temperature: See `kdinpaint.TransferImportancePredictor`.
        pool: See `kdinpaint.TransferImportancePredictor`.
        joint: Let this loss train all that a `MetaLearner` should; it collapses, for ablations only.
        aligner: "teacher" passes the teacher's features through a residual block, the identity when fresh, before
            they are compared: the target becomes what of them is worth imitating (the ICCV form). Only a `MetaLearner`
            may train it, see `aligner_parameters`: trained with this loss it becomes a constant. "student" passes the
            student's features through a 1 x 1 convolution, the identity when fresh, that trains with the student and is
            left behind (the regressor of FitNets, Romero et al. 2015): the student may keep a code of its own as
            long as the teacher's can be read from it.
        distance: "mse"; "smooth_l1", which outliers pull less; "cosine", 1 - cos of the feature vectors of each cell,
            which leaves their length alone; or "heteroscedastic", squared errors divided by their running mean per
            channel and level, which is the Gaussian likelihood with the variance at its optimum: channels that turn
            out unpredictable lose weight.
        region: "hole" cells, "known" cells, or "all".
        rim: Decay length in cells: hole cells lose weight by exp(-1 / rim) with every step away from the known cells.
            None weighs them alike.
        low_pass: Compare means over blocks of this many cells a side (over the weighted cells in them): the coarse
            content of a hole is easier to infer than its texture. 1 compares cells.
        device: Of parameters and buffers.
        dtype: Of the parameters.

    Raises:
        ConfigError: No levels, as many level_weights as not levels, or an option out of range.

    Example:
        >>> import torch
        >>> from kdinpaint import CrossDistillLoss
        >>> loss = CrossDistillLoss([16, 32])
        >>> teacher = [torch.randn(2, 16, 32, 32), torch.randn(2, 32, 16, 16)]
        >>> mask = torch.zeros(2, 1, 64, 64); mask[..., 20:40, 20:40] = 1
        >>> float(loss(teacher, teacher, mask))
        0.0
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
        aligner: Aligner = "none",
        distance: Distance = "mse",
        region: Region = "hole",
        rim: float | None = None,
        low_pass: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_choice(aligner, get_args(Aligner), "aligner")
        super().__init__(
            channels,
            importance=importance,
            scale=scale,
            reduction=reduction,
            mask_resize=mask_resize,
            level_weights=level_weights,
            floor=floor,
            temperature=temperature,
            pool=pool,
            joint=joint,
            distance=distance,
            region=region,
            rim=rim,
            low_pass=low_pass,
            device=device,
            dtype=dtype,
        )
        self.aligners = nn.ModuleList(
            ResidualBlock(c, device=device, dtype=dtype) for c in (channels if aligner == "teacher" else ())
        )
        for block in self.aligners:
            assert isinstance(block, ResidualBlock)
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)  # type: ignore[arg-type]
        self.readouts = nn.ModuleList(
            readout_conv(c, c, device=device, dtype=dtype) for c in (channels if aligner == "student" else ())
        )

    def aligner_parameters(self) -> list[nn.Parameter]:
        """Of the transform of the teacher's features, for `MetaLearner(aligners=...)`; none without one."""
        return list(self.aligners.parameters())

    def targets(self, teacher: Sequence[Tensor]) -> list[Tensor]:
        """What the student is compared with: the teacher's features, detached, through the aligner if there is one."""
        features = [feature.detach() for feature in teacher]
        if not self.aligners:
            return features
        self._check_levels(features)
        return [align(feature) for align, feature in zip(self.aligners, features, strict=True)]

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss, a scalar >= 0, 0 at equality (with a fresh aligner) and for empty holes.

        Args:
            student: One (B, C_l, H_l, W_l) a level.
            teacher: The same shapes.
            mask: (B, 1, H, W), 1 = hole, at least as large as the largest level. It is stretched over each level, so it
                must cover what the features cover: pad it as the network pads its input.

        Raises:
            ShapeError: Levels, channels or sizes do not fit.
        """
        targets = self.targets(teacher)
        distances = self._pair_distances(
            self._read(student), targets if self.joint else [t.detach() for t in targets], mask
        )
        if self.training:
            self.observe(teacher)
        weights = self.importance(teacher, mask)
        return self.combine(weights if self.joint else [w.detach() for w in weights], distances)

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Unweighted distance of every channel, one (B, C_l) a level; arguments as for `forward`.

        They are differentiable with respect to the student's features, and to `aligner_parameters`.
        """
        return self._pair_distances(self._read(student), self.targets(teacher), mask)

    def _read(self, student: Sequence[Tensor]) -> Sequence[Tensor]:
        """The student's features, through the aligner if that is its side."""
        if not self.readouts:
            return student
        self._check_levels(student)
        return [readout(feature) for readout, feature in zip(self.readouts, student, strict=True)]
