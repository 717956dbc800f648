"""PIC: pluralistic completion, many fillings of one hole (Zheng et al., CVPR 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.models.comparators.base import Comparator, to_unit
from kdinpaint.models.comparators.pic_blocks import ResidualDown, ResidualUnit, ResidualUp, SelfAttention, ToImage
from kdinpaint.models.padding import crop_to
from kdinpaint.ops.masks import resize_mask

__all__ = ["Gaussian", "PluralisticNet"]


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over the latent map.

    Attributes:
        mean: (B, Z, h, w).
        std: (B, Z, h, w), above 0.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import Gaussian
        >>> Gaussian(torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)).sample().shape
        torch.Size([1, 4, 2, 2])
    """

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw mean + std times noise; gradients flow to both."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise


class PluralisticNet(Comparator):
    """PIC: an encoder for what is seen, a Gaussian for what is missing, a decoder with attention to the encoder.

    Two paths share encoder and decoder. The generative one infers the Gaussian from the visible part (prior); the
    reconstructive one, in training alone, from what was in the hole (posterior). Every convolution of the paths but
    the attention's is spectrally normalised. `forward` uses the mean of the prior and is the same every time;
    `sample` draws.

    Args:
        in_channels: Channels C of the image.
        channels: Of the encoder levels, shallow to deep; at least three.
        latent: Channels Z of the Gaussian.
        inference: Residual blocks before the prior's head.

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W) in [0, 1]

    Raises:
        ConfigError: Fewer than three levels.
        ShapeError: Shapes do not fit, or no side is longer than 2^levels pixels.

    Example:
        >>> import torch
        >>> from kdinpaint import create_model
        >>> net = create_model("pic", channels=(4, 4, 8), latent=4, inference=1)
        >>> net(torch.rand(2, 3, 30, 44), torch.zeros(2, 1, 30, 44)).shape
        torch.Size([2, 3, 30, 44])
    """

    retrofit_levels: ClassVar[tuple[str, ...]] = ("encoder.0", "encoder.1", "encoder.2")

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128, 128, 128),
        latent: int = 128,
        inference: int = 6,
    ) -> None:
        if len(channels) < 3:
            raise ConfigError(f"channels is {tuple(channels)}; expected at least three levels.")
        super().__init__(in_channels, 2 ** len(channels))
        deep = channels[-1]
        self.encoder = nn.ModuleList(
            ResidualDown(before, after, first=not level)
            for level, (before, after) in enumerate(pairwise([in_channels, *channels]))
        )
        self.posterior = ResidualUnit(deep, 2 * latent)
        self.prior = nn.Sequential(
            *(ResidualUnit(deep, deep) for _ in range(inference)), ResidualUnit(deep, 2 * latent)
        )
        self.from_latent = ResidualUnit(latent, deep)
        ups = list(channels[::-1])
        self.attention = SelfAttention(ups[1], channels[-3])
        self.decoder = nn.ModuleList(
            ResidualUp(before + (in_channels if number > 1 else 0), after)
            for number, (before, after) in enumerate(pairwise([deep, *ups]))
        )
        self.to_image = nn.ModuleList(ToImage(after, in_channels) for after in ups[1:])

    def prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `Comparator`; instance normalisation needs two cells at the deepest level."""
        padded, hole = super().prepare(image, mask)
        if not torch.compiler.is_compiling() and max(padded.shape[-2:]) <= self.stride:
            raise ShapeError(
                f"image is {tuple(image.shape[-2:])}; expected a side of more than {self.stride} pixels. Enlarge it."
            )
        return padded, hole

    def encode(self, signed: Tensor) -> list[Tensor]:
        """Features of all levels, shallow to deep, of an image in [-1, 1] whose unseen part is 0."""
        found = []
        for level in self.encoder:
            signed = level(signed)
            found.append(signed)
        return found

    def infer(self, feature: Tensor, *, posterior: bool = False) -> Gaussian:
        """The Gaussian of what is missing, from the deepest feature (B, C, h, w)."""
        mean, raw = (self.posterior if posterior else self.prior)(feature).chunk(2, 1)
        return Gaussian(mean, F.softplus(raw))

    def decode(self, features: Sequence[Tensor], latent: Tensor, hole: Tensor) -> list[Tensor]:
        """Images (B, C, h, w) in [-1, 1] at all but the coarsest scales, the largest last.

        Args:
            features: Of the visible part, from `encode`.
            latent: (B, Z, h, w).
            hole: (B, 1, H, W), 0 or 1.
        """
        x = features[-1] + self.from_latent(latent)
        images: list[Tensor] = []
        for number, block in enumerate(self.decoder):
            x = block(x)
            if number == 1:
                known = 1 - resize_mask(hole, (x.shape[-2], x.shape[-1]))
                x = self.attention(x, features[-3], known)
            if number:
                images.append(self.to_image[number - 1](x))
                x = torch.cat([x, images[-1]], 1)
        return images

    def visible(self, image: Tensor, hole: Tensor) -> Tensor:
        """What the encoder sees of an image in [0, 1]: [-1, 1], and 0 in the hole."""
        return (2 * image - 1) * (1 - hole)

    def predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """See `Comparator`; the latent is the prior's mean."""
        features = self.encode(self.visible(image, hole))
        return to_unit(self.decode(features, self.infer(features[-1]).mean, hole)[-1])

    def sample(self, image: Tensor, mask: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One of the many completions; arguments and result as of `forward`.

        Args:
            image: (B, C, H, W) in [0, 1].
            mask: (B, 1, H, W), 1 = hole.
            generator: Where the noise comes from, on the image's device; the global generator by default.

        Raises:
            ShapeError: As `forward`.
        """
        padded, hole = self.prepare(image, mask)
        features = self.encode(self.visible(padded, hole))
        latent = self.infer(features[-1]).sample(generator)
        out = to_unit(self.decode(features, latent, hole)[-1])
        return crop_to(out, (image.shape[-2], image.shape[-1]))
