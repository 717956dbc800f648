"""Cross distillation (Eq. 1): the encoder that saw the intact image teaches the one that did not."""

from collections.abc import Sequence

from torch import Tensor

from kdinpaint.distill.channelwise import ChannelDistillLoss

__all__ = ["CrossDistillLoss"]


class CrossDistillLoss(ChannelDistillLoss):
    r"""Channel-weighted distance to the teacher's features, inside the hole, level by level.

    Eq. 1: $R^l_{cross} = \sum_c \rho^l_c(x^*_l)\,\lVert (x_l - x^*_l)_c \odot M_l \rVert_2^2$ for $l = 1..L$, where
    $x_l$ is the student's feature, $x^*_l$ the teacher's on the uncorrupted image and $\rho$ a
    `TransferImportancePredictor`. The weights enter detached, and no gradient reaches the teacher: predictors
    are trained by `kdinpaint.MetaLearner` only. With reduction="sum" and scale="none" it is the equation to
    the letter; the default averages over hole cells and levels.

    Args:
        channels: Channels of each level.
        importance: "learned" or "uniform".
        scale: "none", or "teacher_std" to divide by the teacher's running per-channel standard deviation.
        reduction: "mean" over hole cells and levels, or "sum" of both; always the mean over the batch.
        mask_resize: "max", "nearest" or "area", see `kdinpaint.ops.resize_mask`.
        level_weights: One factor per level; 1 by default.
        floor: See `kdinpaint.TransferImportancePredictor`.
        temperature: See `kdinpaint.TransferImportancePredictor`.
        pool: See `kdinpaint.TransferImportancePredictor`.
        joint: Let this loss train the predictors; it collapses them, for ablations only.
        device: Of parameters and buffers.
        dtype: Of the parameters.

    Raises:
        ConfigError: No levels, or as many level_weights as not levels.

    Example:
        >>> import torch
        >>> from kdinpaint import CrossDistillLoss
        >>> loss = CrossDistillLoss([16, 32])
        >>> teacher = [torch.randn(2, 16, 32, 32), torch.randn(2, 32, 16, 16)]
        >>> mask = torch.zeros(2, 1, 64, 64); mask[..., 20:40, 20:40] = 1
        >>> float(loss(teacher, teacher, mask))
        0.0
    """

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The loss, a scalar >= 0, 0 at equality and for empty holes.

        Args:
            student: One (B, C_l, H_l, W_l) a level.
            teacher: The same shapes.
            mask: (B, 1, H, W), 1 = hole, at least as large as the largest level.

        Raises:
            ShapeError: Levels, channels or sizes do not fit.
        """
        distances = self.distances(student, teacher, mask)
        if self.training:
            self.observe(teacher)
        weights = self.importance(teacher, mask)
        return self.combine(weights if self.joint else [w.detach() for w in weights], distances)

    def distances(self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Unweighted distance of every channel, one (B, C_l) a level; arguments as for `forward`."""
        return self._pair_distances(student, [t.detach() for t in teacher], mask)
