"""What a network minimises, and the simplest of them. An objective holds every trainable of its stage as one module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdinpaint.models import AutoEncoder, InpaintingNet
from kdinpaint.models.comparators import Comparator
from kdinpaint.ops import masked_channel_mean
from kdinpaint.training.config import LossConfig

__all__ = ["Losses", "Objective", "TeacherObjective", "inpainting_loss"]


def inpainting_loss(prediction: Tensor, image: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Weighted L1 of a raw prediction, hole and known pixels each averaged over their own area.

    Args:
        prediction: (B, C, H, W).
        image: (B, C, H, W), the truth.
        mask: (B, 1, H, W), 1 = hole.
        config: The weights.

    Returns:
        A scalar.
    """
    error = (prediction - image).abs()
    hole = masked_channel_mean(error, mask).mean()
    known = masked_channel_mean(error, 1 - mask).mean()
    return config.hole * hole + config.known * known


@dataclass
class Losses:
    """What one forward pass of an objective yields.

    Attributes:
        total: The scalar to minimise.
        parts: Its unweighted terms, for the log.
        kept: Whatever the objective needs again in `backward`.
        progress: The share of steps done, for objectives with an optimiser of their own.
    """

    total: Tensor
    parts: dict[str, Tensor]
    kept: Any = None
    progress: float = 0.0


class Objective(nn.Module):
    """Base: `net` is the network that is trained, averaged and kept; `betas` are those of its Adam."""

    net: AutoEncoder | InpaintingNet | Comparator
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    calls_net: bool = True  # `forward` calls `net` itself, not its methods: `runtime.compile` makes it faster
    part: tuple[int, int] = (0, 1)  # which part of a batch comes next, and of how many
    loss_scale: float = 1.0  # factor that `backward` puts on a loss, so that gradients do not vanish in float16

    def trainable(self) -> list[nn.Parameter]:
        """Parameters of the stage's optimiser."""
        return list(self.parameters())

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """The losses of a batch; `progress` in [0, 1) is the share of steps done."""
        raise NotImplementedError

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Fill the gradients; returns further numbers for the log."""
        backward(losses.total)
        return {}

    def extra_state(self) -> dict[str, Any]:
        """State that is neither a parameter nor a buffer."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `extra_state` returned."""


class TeacherObjective(Objective):
    """L1 reconstruction of intact images."""

    def __init__(self, net: AutoEncoder) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        loss = (self.net(batch["image"]) - batch["image"]).abs().mean()
        return Losses(loss, {"l1": loss.detach()})
