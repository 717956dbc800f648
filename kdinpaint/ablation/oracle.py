"""The most that imitation of a teacher could bring to a trained student."""

from collections.abc import Collection

from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.distill import teacher_forcing
from kdinpaint.models import AutoEncoder, InpaintingNet

__all__ = ["OracleNet"]


class OracleNet(nn.Module):
    """A student whose features in the hole are put in by its teacher, who sees the intact image.

    What it gains over the student alone bounds what distillation could bring to this decoder: distillation at its best
    makes features equal to the teacher's, and no network can infer all of them from outside. No method, a measurement.

    Args:
        student: The network; it is not changed.
        teacher: Has as many channels as the student at every level that is replaced.
        levels: Which to replace, counted from 0, the shallowest; all by default.

    Raises:
        ConfigError: A level that there is not, or whose widths differ.

    Example:
        >>> import torch
        >>> from kdinpaint import create_model
        >>> from kdinpaint.ablation import OracleNet
        >>> net = OracleNet(create_model("kdinpaint_tiny"), create_model("autoencoder_tiny"), levels=[2])
        >>> net(torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)).shape
        torch.Size([1, 3, 32, 32])
    """

    def __init__(self, student: InpaintingNet, teacher: AutoEncoder, levels: Collection[int] | None = None) -> None:
        super().__init__()
        mine, theirs = student.channels, teacher.feature_channels
        self.levels = frozenset(range(len(mine)) if levels is None else levels)
        if not all(0 <= n < len(mine) and mine[n : n + 1] == theirs[n : n + 1] for n in self.levels):
            raise ConfigError(
                f"levels {sorted(self.levels)} cannot be replaced: the student has channels {list(mine)}, the teacher "
                f"{list(theirs)}; choose levels from 0 on where both agree."
            )
        self.student, self.teacher = student, teacher

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Predict the image.

        Args:
            image: (B, C, H, W) in [0, 1], intact: the student sees its known part, the teacher all of it.
            mask: (B, 1, H, W), 1 = hole.
        """
        truth, levels = self.teacher.encode(image), sorted(self.levels)

        def told(features: list[Tensor], hole: Tensor) -> list[Tensor]:
            forced = teacher_forcing([features[n] for n in levels], [truth[n] for n in levels], hole)
            by_level = dict(zip(levels, forced, strict=True))
            return [by_level.get(n, own) for n, own in enumerate(features)]

        return self.student(image, mask, before_decoder=told)
