"""EC: edges first, then colours (Nazeri et al., EdgeConnect, 2019)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.models.comparators.base import Comparator, settle_spectral_norm, spectral_norm, to_unit
from kdinpaint.models.comparators.canny import canny_edges, to_grey

__all__ = ["EdgeConnectNet"]


class ResidualUnit(nn.Module):
    """x plus two 3x3 convolutions with instance normalisation, the first dilated by 2; no activation after the sum."""

    def __init__(self, channels: int, *, spectral: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(2),
            spectral_norm(nn.Conv2d(channels, channels, 3, dilation=2, bias=not spectral), on=spectral),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            spectral_norm(nn.Conv2d(channels, channels, 3, bias=not spectral), on=spectral),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = x + self.body(x)
        return y


class EdgeConnectGenerator(nn.Module):
    """Two steps down, residual units, two steps up; the form that both generators have. It gives no activation."""

    def __init__(self, in_channels: int, out_channels: int, *, width: int, blocks: int, spectral: bool) -> None:
        super().__init__()
        w = width

        def stage(pad: nn.Module | None, convolution: nn.Module, channels: int) -> nn.Sequential:
            parts = [spectral_norm(convolution, on=spectral), nn.InstanceNorm2d(channels), nn.ReLU()]
            return nn.Sequential(*([pad] if pad is not None else []), *parts)

        self.encoder = nn.Sequential(
            stage(nn.ReflectionPad2d(3), nn.Conv2d(in_channels, w, 7), w),
            stage(None, nn.Conv2d(w, 2 * w, 4, 2, 1), 2 * w),
            stage(None, nn.Conv2d(2 * w, 4 * w, 4, 2, 1), 4 * w),
        )
        self.middle = nn.Sequential(*(ResidualUnit(4 * w, spectral=spectral) for _ in range(blocks)))
        self.decoder = nn.Sequential(
            stage(None, nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1), 2 * w),
            stage(None, nn.ConvTranspose2d(2 * w, w, 4, 2, 1), w),
            nn.ReflectionPad2d(3),
            nn.Conv2d(w, out_channels, 7),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kernels from N(0, 0.02), no bias."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                weight = (
                    module.parametrizations.weight.original  # type: ignore[union-attr]
                    if nn.utils.parametrize.is_parametrized(module, "weight")
                    else module.weight
                )
                nn.init.normal_(weight, 0.0, 0.02)  # type: ignore[arg-type]
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        settle_spectral_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W), sides multiples of 4 -> (B, out, H, W)."""
        y: Tensor = self.decoder(self.middle(self.encoder(x)))
        return y


class EdgeConnectNet(Comparator):
    """EC: one generator completes the edges, another paints between them; 21.5 million parameters together.

    Known edges are Canny's of the known part. The first generator, spectrally normalised, sees the grey image with a
    white hole, those edges and the mask, and gives the probability of an edge for every pixel; the second sees the
    image with a white hole and edges: known ones outside, predicted ones inside the hole.

    Args:
        in_channels: Channels C of the image.
        width: Of the first layers.
        blocks: Residual units of each generator.
        sigma: Of Canny's Gaussian, pixels.

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W) in [0, 1]

    Raises:
        ConfigError: sigma not above 0.

    Example:
        >>> import torch
        >>> from kdinpaint import create_model
        >>> net = create_model("ec", width=4, blocks=1)
        >>> net(torch.rand(2, 3, 30, 44), torch.zeros(2, 1, 30, 44)).shape
        torch.Size([2, 3, 30, 44])
    """

    retrofit_levels: ClassVar[tuple[str, ...]] = ("completion.encoder.1", "completion.encoder.2")

    def __init__(self, in_channels: int = 3, width: int = 64, blocks: int = 8, sigma: float = 2.0) -> None:
        if sigma <= 0:
            raise ConfigError(f"sigma is {sigma}; expected a number above 0.")
        super().__init__(in_channels, 4)
        self.sigma = sigma
        self.edges = EdgeConnectGenerator(3, 1, width=width, blocks=blocks, spectral=True)
        self.completion = EdgeConnectGenerator(in_channels + 1, in_channels, width=width, blocks=blocks, spectral=False)

    def known_edges(self, image: Tensor, hole: Tensor | None = None) -> Tensor:
        """Canny's edges (B, 1, H, W) of the whole image, or of what is outside the hole."""
        return canny_edges(to_grey(image), hole, sigma=self.sigma)

    def edge_logits(self, image: Tensor, hole: Tensor, edges: Tensor) -> Tensor:
        """The first generator: (B, 1, H, W), before the sigmoid; what lies in the hole is not looked at."""
        known = 1 - hole
        return self.edges(torch.cat([to_grey(image) * known + hole, edges * known, hole], 1))

    def complete(self, image: Tensor, hole: Tensor, edges: Tensor) -> Tensor:
        """The second generator: the image (B, C, H, W) in [0, 1] from edges everywhere."""
        return to_unit(torch.tanh(self.completion(torch.cat([image * (1 - hole) + hole, edges], 1))))

    def predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """See `Comparator`."""
        known = self.known_edges(image, hole)
        found = torch.sigmoid(self.edge_logits(image, hole, known))
        return self.complete(image, hole, torch.where(hole != 0, found, known))
