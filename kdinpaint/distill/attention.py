"""Attention transfer: the student looks from its hole to where the teacher looks."""

from typing import get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_feature, check_mask, describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.channelwise import Importance
from kdinpaint.ops.masks import MaskResize, resize_mask
from kdinpaint.ops.reduce import weighted_channel_sum

__all__ = ["AttentionTransferLoss"]


class AttentionTransferLoss(nn.Module):
    r"""Distance between the attention rows of two networks, over the hole.

    $$R_{att} = \frac{1}{|H|} \sum_{i \in H} t_i \sum_j (r_{ij} - r^*_{ij})^2,$$

    where row $r_i$ says how position i shares its attention among the keys j, $r^*$ is the attention of a teacher with
    the same module in its decoder, and H are the hole positions. $t_i \in (0, 2)$, twice the sigmoid of a convolution
    over the teacher's decoder feature, says how much a position has to learn from the teacher; it is 1 when fresh. The
    form is that of the ICCV version of the paper as far as it is public ("Distillation-guided Image Inpainting", 2021;
    there t is the plain sigmoid). The loss is linear in t, so `kdinpaint.MetaLearner` trains it as it trains channel
    importance, and nothing else may: trained with this loss, t goes to 0.

    Args:
        channels: Channels of the decoder feature that t is predicted from; needed with importance="learned".
        importance: "learned" t, or "uniform" for t = 1.
        mask_resize: "max", "nearest" or "area", see `kdinpaint.ops.resize_mask`.
        joint: Let this loss train t; it collapses it, for ablations only.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ConfigError: importance="learned" without channels, or an unknown option.

    Example:
        >>> import torch
        >>> from kdinpaint import AttentionTransferLoss
        >>> loss = AttentionTransferLoss(importance="uniform")
        >>> student, teacher = (torch.randn(2, 8, 8, 64).softmax(-1) for _ in range(2))  # 64 keys for each of 8 x 8
        >>> loss(student, teacher, torch.ones(2, 1, 32, 32)).shape
        torch.Size([])
    """

    def __init__(
        self,
        channels: int | None = None,
        *,
        importance: Importance = "learned",
        mask_resize: MaskResize = "max",
        joint: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(importance, get_args(Importance), "importance")
        self.mask_resize: MaskResize = mask_resize
        self.joint = joint
        self.predictor: nn.Conv2d | None = None
        if importance == "learned":
            if channels is None:
                raise ConfigError(
                    "t is predicted from the teacher's decoder feature; pass its channels, or importance='uniform'."
                )
            self.predictor = nn.Conv2d(channels, 1, 3, padding=1, device=device, dtype=dtype)
            nn.init.zeros_(self.predictor.weight)
            nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def meta_parameters(self) -> list[nn.Parameter]:
        """What `importance` depends on and a `MetaLearner` trains."""
        return [] if self.predictor is None else list(self.predictor.parameters())

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor, *, feature: Tensor | None = None) -> Tensor:
        """The loss, a scalar >= 0, 0 at equality and for empty holes.

        Args:
            student: (B, H, W, N), row (b, y, x) sums to 1 over the N keys.
            teacher: The same shape; no gradient reaches it.
            mask: (B, 1, H_m, W_m), 1 = hole, from the attention's resolution upwards; it must cover what the positions
                cover: pad it as the network pads its input.
            feature: (B, channels, H, W), what the teacher's attention looked at; needed with importance="learned".

        Raises:
            ShapeError: Shapes do not fit, or the feature is missing.
        """
        weights, distances = self.importance(teacher, feature), self.distances(student, teacher, mask)
        return self.combine(weights if self.joint else [w.detach() for w in weights], distances)

    def combine(self, weights: list[Tensor], distances: list[Tensor]) -> Tensor:
        """The scalar loss from what `importance` and `distances` gave."""
        return weighted_channel_sum(weights[0].to(distances[0].dtype), distances[0])

    def pair_weights(self) -> list[float]:
        """The factor with which the attention map enters the loss: 1."""
        return [1.0]

    def importance(self, teacher: Tensor, feature: Tensor | None = None) -> list[Tensor]:
        """Weights t of all positions, one (B, H W), differentiable with respect to `meta_parameters`.

        Args:
            teacher: As for `forward`; only its shape counts.
            feature: As for `forward`.
        """
        if self.predictor is None:
            return [teacher.new_ones(teacher.shape[0], teacher.shape[1] * teacher.shape[2])]
        if feature is None:
            raise ShapeError("feature is None; t is predicted from the teacher's decoder feature, pass feature=.")
        check_feature(feature, "feature", channels=self.predictor.in_channels)
        if not torch.compiler.is_compiling() and feature.shape[-2:] != teacher.shape[1:3]:
            raise ShapeError(
                f"feature is {describe(feature)} and the attention {describe(teacher)}; expected (B, C, H, W) and "
                f"(B, H, W, N) of the same positions."
            )
        score: Tensor = self.predictor(feature.detach().to(self.predictor.weight.dtype))
        return [2 * score.sigmoid().flatten(1)]

    def distances(self, student: Tensor, teacher: Tensor, mask: Tensor) -> list[Tensor]:
        """Unweighted distances of all rows, one (B, H W): 0 outside the hole, divided by its number of positions."""
        if not torch.compiler.is_compiling() and (student.shape != teacher.shape or student.dim() != 4):
            raise ShapeError(
                f"the student's attention is {describe(student)} and the teacher's {describe(teacher)}; expected equal "
                f"shapes (B, H, W, N). Give both networks the same attention at the same resolution."
            )
        check_mask(mask, student, same_size=False)
        hole = resize_mask(mask, (student.shape[1], student.shape[2]), mode=self.mask_resize)
        wide = torch.promote_types(student.dtype, torch.float32)
        rows = (student.to(wide) - teacher.detach()).square().sum(-1, dtype=wide).flatten(1)
        inside = hole.to(wide).flatten(1)
        return [rows * inside / inside.sum(1, keepdim=True).clamp_min(1.0)]
