"""What the comparators have in common: the call `net(image, mask)`, sizes of any kind, and spectral norms."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from kdinpaint._core.checks import check_feature, check_mask
from kdinpaint.models.hub import HubModel
from kdinpaint.models.padding import crop_to, pad_to_multiple

__all__ = ["Comparator", "settle_spectral_norm", "spectral_norm", "to_unit"]


class Comparator(nn.Module, HubModel):
    """A published inpainting network, called as every other: `net(image, mask)`.

    Subclasses define `predict`. What the image holds inside the hole does not matter, not even NaN.

    Attributes:
        in_channels: Channels of the image.
        stride: Sides that `predict` takes are multiples of this; `forward` pads and crops.
        retrofit_levels: Encoder stages that suit `kdinpaint.retrofit`, with mask="arg:1".

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W), in [0, 1] in eval mode

    Raises:
        ShapeError: Shapes do not fit each other or the network.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import Comparator
        >>> class Mean(Comparator):
        ...     def predict(self, image, hole):
        ...         return image.mean((2, 3), keepdim=True).expand_as(image)
        >>> Mean(3, 4)(torch.rand(1, 3, 30, 41), torch.zeros(1, 1, 30, 41)).shape
        torch.Size([1, 3, 30, 41])
    """

    retrofit_levels: ClassVar[tuple[str, ...]] = ()

    def __init__(self, in_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels, self.stride = in_channels, stride

    def predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """The whole image from one whose hole is 0.

        Args:
            image: (B, C, H, W) in [0, 1], sides multiples of `stride`.
            hole: (B, 1, H, W), 0 or 1, of the dtype of the image.
        """
        raise NotImplementedError

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Predict the whole image; use `kdinpaint.ops.composite` to keep the known pixels."""
        out = crop_to(self.predict(*self.prepare(image, mask)), (image.shape[-2], image.shape[-1]))
        return out if self.training else out.clamp(0, 1)

    def prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Arguments of `predict` from those of `forward`: checked, hole emptied, padded."""
        check_feature(image, "image", channels=self.in_channels)
        check_mask(mask, image)
        hole = mask != 0
        seen = torch.where(hole, 0.0, image)
        x = pad_to_multiple(torch.cat([seen, hole.to(image.dtype)], 1), self.stride)
        return x[:, :-1], x[:, -1:]


def to_unit(signed: Tensor) -> Tensor:
    """[-1, 1], where most of these networks work, to [0, 1]."""
    return (signed + 1) / 2


def spectral_norm(module: nn.Module, *, on: bool = True) -> nn.Module:
    """A convolution whose weight is divided by its largest singular value (Miyato et al. 2018); as it is if not `on`.

    The value comes from one power iteration for every forward pass in training mode.
    """
    return parametrizations.spectral_norm(module) if on else module


@torch.no_grad()
def settle_spectral_norm(module: nn.Module, iterations: int = 30) -> None:
    """Bring the vectors of all spectral norms up to the present weights, by power iterations.

    Averaging weights over training averages these vectors, too, which shortens them. The module's modes stay.

    Args:
        module: Any module.
        iterations: Power iterations.

    Example:
        >>> import torch
        >>> from torch.nn.utils.parametrizations import spectral_norm
        >>> from kdinpaint.models.comparators import settle_spectral_norm
        >>> layer = spectral_norm(torch.nn.Linear(3, 4))
        >>> settle_spectral_norm(layer, iterations=100)
        >>> round(float(torch.linalg.matrix_norm(layer.eval().weight.detach(), 2)), 3)
        1.0
    """
    for norm in module.modules():
        if isinstance(norm, nn.utils.parametrize.ParametrizationList):
            iterate: Any = norm[0]
            if hasattr(iterate, "_power_method"):
                iterate._power_method(iterate._reshape_weight_to_matrix(norm.original), iterations)
