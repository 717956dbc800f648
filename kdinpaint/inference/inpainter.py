"""Inpainter: a trained model behind one call."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kdinpaint._core.checks import check_image
from kdinpaint._core.errors import ConfigError, KDInpaintWarning, ShapeError, WeightsError
from kdinpaint._core.files import atomic_path
from kdinpaint.inference.convert import ImageLike, read_mask, read_pixels
from kdinpaint.models.comparators import Comparator
from kdinpaint.models.inpainting import InpaintingNet
from kdinpaint.models.weights import load_model

__all__ = ["Inpainter"]


class Inpainter:
    """Fills holes with a trained model: any size, any kind of image, known pixels bit-exact.

    Args:
        model: An `InpaintingNet` or `Comparator`, put into eval mode; or a folder or `model.safetensors` that holds
            one. Of a run folder that `kdinpaint train` wrote, the student is taken, or the only network.
        device: Where to run; "cuda" if there is one, else "cpu", by default.

    Raises:
        WeightsError: The weights cannot be read, or are not those of an inpainting network.

    Example:
        >>> import torch
        >>> from kdinpaint import Inpainter, create_model
        >>> inpainter = Inpainter(create_model("kdinpaint_tiny"))
        >>> image, mask = torch.rand(3, 45, 61), torch.zeros(45, 61)
        >>> mask[10:20, 10:20] = 1
        >>> filled = inpainter(image, mask)
        >>> filled.shape, torch.equal(filled[:, mask == 0], image[:, mask == 0])
        (torch.Size([3, 45, 61]), True)
    """

    def __init__(
        self, model: InpaintingNet | Comparator | str | Path, *, device: torch.device | str | None = None
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if isinstance(model, str | Path):
            folder = Path(model)
            if not (folder / "model.safetensors").is_file() and (folder / "student").is_dir():
                folder = folder / "student"
            elif not (folder / "model.safetensors").is_file():
                trained = sorted(p.parent for p in folder.glob("*/model.safetensors"))
                folder = trained[0] if len(trained) == 1 else folder
            loaded = load_model(folder)
        else:
            loaded = model
        if not isinstance(loaded, InpaintingNet | Comparator):
            raise WeightsError(
                f"{model if isinstance(model, str | Path) else 'model'} is a {type(loaded).__name__}, which does not "
                f"inpaint; expected an InpaintingNet, such as RUN/student."
            )
        self.model = loaded.to(self.device).eval()

    def __call__(
        self,
        image: ImageLike | Sequence[ImageLike],
        mask: ImageLike | Sequence[ImageLike],
        *,
        threshold: float | None = None,
        output: str | Path | None = None,
    ) -> Any:  # noqa: ANN401 - the kind of the input
        """Fill the hole.

        Args:
            image: A path; a PIL image; an array (H, W), (H, W, C) or (B, H, W, C); a tensor (H, W), (C, H, W) or
                (B, C, H, W); or a list of these. Numbers are uint8, uint16, or float in [0, 1]. Alpha channels of
                PIL images and arrays are kept, unless the model takes as many channels. Values inside the hole
                do not matter.
            mask: Of the same height and width and of any of these kinds; two values, non-zero is the hole. One
                mask may serve a batch; a list of images takes a list of masks.
            threshold: Accept a mask that is not binary: hole where its value, as a share of the format's
                maximum, is above this (0.5, say).
            output: Where to write the result, for a path or PIL image; PNG keeps known pixels exact.

        Returns:
            The same kind as `image`, with every pixel outside the hole equal to the input, bit for bit; a PIL
            image for a path; the path written, if `output` is given. An empty hole returns the input's values.

        Raises:
            ShapeError: Layouts or sizes that do not fit each other or the model.
            RangeError: Values out of range or not finite outside the hole; a mask that is not binary.
            ImageFileError: A file that cannot be read.
            OutputError: The result cannot be written.

        Warns:
            KDInpaintWarning: The hole covers more than 95 % of an image: its polarity is probably wrong.
        """
        if isinstance(image, list | tuple):
            return self._each(image, mask, threshold, output)
        if isinstance(mask, list | tuple):
            raise ShapeError("got a list of masks for one image; expected one mask.")
        pixels = read_pixels(image, channels=self.model.in_channels)  # type: ignore[arg-type]
        hole = read_mask(mask, pixels, threshold=threshold)  # type: ignore[arg-type]
        self._warn_polarity(hole)
        known = torch.where(hole, 0.0, pixels.as_float())
        check_image(known)
        result = pixels.merge(self._predict(known, hole), hole)
        if output is None:
            return result
        if not isinstance(result, Image.Image):
            raise ConfigError(
                f"output={str(output)!r} goes with a path or a PIL image; the result for {type(image).__name__} is "
                f"returned, save it yourself."
            )
        return write_pil(result, Path(output))

    def _each(
        self,
        images: Sequence[ImageLike],
        masks: ImageLike | Sequence[ImageLike],
        threshold: float | None,
        output: str | Path | None,
    ) -> list[Any]:
        if not isinstance(masks, list | tuple) or len(masks) != len(images) or output is not None:
            raise ShapeError(
                f"got {len(images)} images and "
                f"{len(masks) if isinstance(masks, list | tuple) else 'a single mask'}; expected a list of as many "
                f"masks, and no output."
            )
        return [self(i, m, threshold=threshold) for i, m in zip(images, masks, strict=True)]

    @torch.inference_mode()
    def _predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """Prediction in [0, 1], (B, C, H, W) on the CPU, with grey and colour brought to the model's channels."""
        channels, expected = image.shape[1], self.model.in_channels
        if not bool(hole.any()):
            return image
        seen, mask = image, hole
        if channels == 1 and expected > 1:
            seen = image.expand(-1, expected, -1, -1)
        elif expected == 1:
            seen = image.flatten(0, 1)[:, None]
            mask = hole.repeat_interleave(channels, 0)
        elif channels != expected:
            raise ShapeError(
                f"image has {channels} channels and the model takes {expected}; expected {expected}, or 1 (grey). "
                f"Train a model with in_channels={channels}."
            )
        dtype = next(self.model.parameters()).dtype
        out = self.model(seen.to(self.device, dtype), mask.to(self.device)).float().cpu()
        if channels == 1 and expected > 1:
            return out.mean(1, keepdim=True)
        return out.reshape(image.shape)

    @staticmethod
    def _warn_polarity(hole: Tensor) -> None:
        ratio = float(hole.flatten(1).float().mean(1).max()) if hole.numel() else 0.0
        if ratio > 0.95:
            what = "the whole image" if ratio == 1 else f"{ratio:.1%} of the image"
            warnings.warn(
                f"the hole covers {what}; is the mask inverted? Non-zero (white) means hole. "
                f"Pass the inverted mask if white marks the known pixels.",
                KDInpaintWarning,
                stacklevel=3,
            )


def write_pil(image: Image.Image, path: Path) -> Path:
    """Write a PIL image atomically and return its path.

    Raises:
        OutputError: It cannot be written.
        ConfigError: No image format goes by this file name, or the format cannot hold the image.
    """
    if path.suffix.lower() not in Image.registered_extensions():
        raise ConfigError(f"{path.name!r} names no image format; expected an ending such as .png, .jpg or .webp.")
    with atomic_path(path) as temporary:
        try:
            image.save(temporary)
        except (ValueError, KeyError) as error:
            raise ConfigError(f"{path.name!r}: {error}. PNG holds all 8- and 16-bit images.") from error
        except OSError as error:
            if error.errno is None:
                raise ConfigError(f"{path.name!r}: {error}. PNG holds all 8- and 16-bit images.") from error
            raise
    return path
