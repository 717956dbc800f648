"""LPIPS and FID, by torchmetrics: what PSNR and SSIM do not see. Weights are fetched on first use."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_image
from kdinpaint._core.errors import ConfigError, DataError, ShapeError, WeightsError
from kdinpaint._core.optional import require
from kdinpaint.metrics.rounding import round_to_uint8

__all__ = ["PerceptualMetrics"]


class PerceptualMetrics:
    """LPIPS, averaged over images, and FID, of all images together; both after rounding to 8 bit.

    FID compares the distributions of two sets of images: from fewer than some thousands it is biased upwards and
    only good for comparing methods on equally many. Both need RGB images.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018; Heusel et
    al., GANs Trained by a Two Time-Scale Update Rule, NeurIPS 2017.

    Args:
        lpips: Network of LPIPS: "alex", the usual one, "vgg" or "squeeze"; a module that takes two batches in
            [-1, 1] and gives (B,) distances; or None to leave it out.
        fid: True for the Inception features of 2048; a module from uint8 images to (B, F) features; or False.
        device: Where to compute.

    Raises:
        WeightsError: Weights of a network are not here and cannot be fetched.
        MissingDependencyError: torchmetrics, or for FID torch-fidelity, is not installed.
        ConfigError: Unknown network, or nothing to measure.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import PerceptualMetrics
        >>> class Distance(torch.nn.Module):
        ...     def forward(self, a, b):
        ...         return (a - b).abs().flatten(1).mean(1)
        >>> metrics = PerceptualMetrics(lpips=Distance(), fid=False)
        >>> metrics.update(torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8))
        >>> metrics.compute()
        {'lpips': 2.0}
    """

    def __init__(
        self,
        *,
        lpips: Literal["alex", "vgg", "squeeze"] | nn.Module | None = "alex",
        fid: bool | nn.Module = True,
        device: torch.device | str | None = None,
    ) -> None:
        if lpips is None and fid is False:
            raise ConfigError("lpips is None and fid False; expected at least one of them.")
        self._device = torch.device(device or "cpu")
        self._lpips = None if lpips is None else _lpips(lpips).to(self._device)
        self._fid = None if fid is False else _fid(fid).to(self._device)
        self._distances: list[Tensor] = []
        self._count = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: (B, 3, H, W) in [0, 1], composited with the known pixels.
            target: (B, 3, H, W) in [0, 1].

        Raises:
            ShapeError: Not two (B, 3, H, W) tensors of one shape.
            RangeError: Values are not finite or not in [0, 1].
        """
        check_image(preds, "preds")
        check_image(target, "target")
        if preds.shape != target.shape or preds.shape[1] != 3:
            raise ShapeError(
                f"preds is {tuple(preds.shape)} and target {tuple(target.shape)}; expected equal shapes (B, 3, H, W). "
                f"Repeat the channel of grey images three times."
            )
        fake, real = (round_to_uint8(x).to(self._device) for x in (preds, target))
        with torch.inference_mode():
            if self._lpips is not None:
                distances = self._lpips(fake.float() / 127.5 - 1, real.float() / 127.5 - 1)
                self._distances.append(distances.reshape(-1).cpu())
            if self._fid is not None:
                self._fid.update(real, real=True)
                self._fid.update(fake, real=False)
        self._count += len(fake)

    def compute(self) -> dict[str, float]:
        """The values of everything added: "lpips" and "fid".

        Raises:
            DataError: No image was added, or fewer than two for FID.
        """
        if self._count < (1 if self._fid is None else 2):
            raise DataError(f"{self._count} images were added; expected at least one, and two for FID. Call update.")
        found = {}
        if self._lpips is not None:
            values = torch.cat(self._distances).double().tolist()
            found["lpips"] = math.fsum(values) / len(values)
        if self._fid is not None:
            found["fid"] = float(self._fid.compute())
        return found


def _lpips(network: str | nn.Module) -> nn.Module:
    if isinstance(network, nn.Module):
        return network.eval()
    check_choice(network, ("alex", "vgg", "squeeze"), "lpips")
    image = require("torchmetrics.image", extra="metrics")
    return _fetched(lambda: image.LearnedPerceptualImagePatchSimilarity(net_type=network), f"LPIPS ({network})").net


def _fid(features: bool | nn.Module) -> Any:  # noqa: ANN401 - torchmetrics comes at run time
    image = require("torchmetrics.image.fid", extra="metrics")
    if isinstance(features, nn.Module):
        return image.FrechetInceptionDistance(feature=features.eval())
    require("torch_fidelity", extra="perceptual")
    return _fetched(lambda: image.FrechetInceptionDistance(feature=2048), "FID")


def _fetched(build: Callable[[], Any], what: str) -> Any:  # noqa: ANN401
    try:
        return build()
    except (OSError, RuntimeError) as error:  # no network, or a file cut off on the way
        raise WeightsError(
            f"the weights of {what} are not here and cannot be fetched ({error}). Fetch them once on a machine with "
            f"access, copy the folder {torch.hub.get_dir()} here, or leave this metric out."
        ) from error
