"""Between what users hold (paths, PIL images, arrays, tensors) and batches of float tensors, without loss."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdinpaint._core.checks import check_binary_mask, describe
from kdinpaint._core.errors import RangeError, ShapeError
from kdinpaint._core.images import MAX_PIXELS, open_image

__all__ = ["ImageLike", "Pixels", "load_image", "read_mask", "read_pixels"]

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any] | Tensor
_LEVELS = {torch.uint8: 255, torch.uint16: 65535}


@dataclass(frozen=True)
class Pixels:
    """An image as its owner holds it, with the way back.

    Attributes:
        stored: (B, C, H, W) in the owner's number format.
        extra: Alpha channel, (B, 1, H, W), or None; kept as it is.
        restore: Turns a tensor like `stored` into the owner's kind.
    """

    stored: Tensor
    extra: Tensor | None
    restore: Callable[[Tensor, Tensor | None], Any]

    def as_float(self) -> Tensor:
        """(B, C, H, W), float32 in [0, 1] if the owner's values are in range."""
        levels = _LEVELS.get(self.stored.dtype)
        return self.stored.float() if levels is None else self.stored.float() / levels

    def merge(self, prediction: Tensor, mask: Tensor) -> Any:  # noqa: ANN401 - the owner's kind
        """Put a prediction in [0, 1] into the hole, in the owner's number format; other pixels are untouched."""
        levels = _LEVELS.get(self.stored.dtype)
        if levels is None:
            new = prediction.to(self.stored.dtype)
        else:
            new = (prediction.clamp(0, 1) * levels).round().to(torch.int32).to(self.stored.dtype)
        # uint16 lacks most operations: choose in int32, which holds every level.
        wide = self.stored.dtype if self.stored.is_floating_point() else torch.int32
        merged = torch.where(mask, new.to(wide), self.stored.to(wide)).to(self.stored.dtype)
        return self.restore(merged, self.extra)


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image file, upright.

    Args:
        path: The file.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        ImageFileError: It is missing, damaged or too large.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
        return image.copy()


def read_pixels(image: ImageLike, *, channels: int | None = None) -> Pixels:
    """Take in an image of any supported kind.

    Args:
        image: See `Inpainter`.
        channels: How many a model takes; in arrays of so many, the last one is not an alpha channel.

    Raises:
        ShapeError: Not an image, or an unsupported layout.
        RangeError: A PIL image of mode I with more than 16 bits.
        ImageFileError: A file that cannot be read.
    """
    if isinstance(image, str | Path):
        image = load_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, channels)
    if isinstance(image, np.ndarray):
        return _from_array(image, channels)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise ShapeError(f"image is {describe(image)}; expected a path, a PIL image, an array or a tensor.")


def _from_pil(image: Image.Image, channels: int | None) -> Pixels:
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16", "F"):
        if image.mode == "I":
            low, high = cast("tuple[int, int]", image.getextrema())
            if low < 0 or high > 65535:
                raise RangeError(f"image of mode I has values from {low} to {high}; expected 0 to 65535 (16 bits).")
        # Palettes cannot hold new colours; CMYK, YCbCr, 1-bit and others have no better equivalent.
        alpha = "RGBA" if "transparency" in image.info else "RGB"
        target = {"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(image.mode, alpha)
        # By way of I, because Pillow cuts other 16-bit modes to 8 bits on the way to I;16.
        image = image.convert("I").convert("I;16") if image.mode.startswith("I") else image.convert(target)
    mode = image.mode
    inner = _from_array(np.array(image), channels)

    def restore(merged: Tensor, extra: Tensor | None) -> Image.Image:
        values = inner.restore(merged, extra)
        if mode == "I;16":
            return Image.frombytes(mode, (values.shape[1], values.shape[0]), values.tobytes())
        return Image.fromarray(values)

    return Pixels(inner.stored, inner.extra, restore)


def _from_array(array: np.ndarray[Any, Any], channels: int | None) -> Pixels:
    shape = array.shape
    if array.dtype not in (np.uint8, np.uint16, np.float32, np.float64, np.float16) or array.ndim not in (2, 3, 4):
        raise ShapeError(
            f"image is an array of {array.dtype} and shape {shape}; expected (H, W), (H, W, C) or (B, H, W, C) of "
            f"uint8, uint16, or float in [0, 1]."
        )
    batch = array[None, ..., None] if array.ndim == 2 else array[None] if array.ndim == 3 else array
    if batch.shape[-1] > 4 and batch.shape[1] <= 4:
        raise ShapeError(
            f"image is an array of shape {shape}; channels come last in arrays. Use array.transpose(1, 2, 0), or "
            f"pass a torch tensor for channels first."
        )
    tensor = _tensor(batch.transpose(0, 3, 1, 2))
    stored, extra = (tensor, None) if tensor.shape[1] == channels else _split_alpha(tensor)

    def restore(merged: Tensor, extra: Tensor | None) -> np.ndarray[Any, Any]:
        whole = merged if extra is None else torch.cat([merged, extra], 1)
        return cast("np.ndarray[Any, Any]", whole.permute(0, 2, 3, 1).contiguous().numpy().reshape(shape))

    return Pixels(stored, extra, restore)


def _from_tensor(tensor: Tensor) -> Pixels:
    shape, device = tensor.shape, tensor.device
    if tensor.dim() not in (2, 3, 4) or not (tensor.is_floating_point() or tensor.dtype in _LEVELS):
        raise ShapeError(
            f"image is {describe(tensor)}; expected (H, W), (C, H, W) or (B, C, H, W) of float in [0, 1], uint8 or "
            f"uint16."
        )
    batch = tensor.detach().reshape((1,) * (4 - tensor.dim()) + tuple(shape))

    def restore(merged: Tensor, extra: Tensor | None) -> Tensor:
        return merged.reshape(shape).to(device)

    return Pixels(batch.cpu(), None, restore)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """As a tensor, sharing memory where PyTorch can: not with read-only arrays, which it warns of."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _split_alpha(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Grey + alpha and RGB + alpha keep their alpha aside."""
    channels = tensor.shape[1]
    if channels in (2, 4):
        return tensor[:, : channels - 1], tensor[:, channels - 1 :]
    return tensor, None


def read_mask(mask: ImageLike, pixels: Pixels, *, threshold: float | None = None) -> Tensor:
    """Take in a mask for an image.

    Args:
        mask: Path, PIL image, array or tensor with the height and width of the image; 0 and one other value
            (1, 255 or 65535, or True), non-zero being the hole. One for a whole batch will do.
        pixels: The image.
        threshold: Make a mask that is not binary binary: hole where the value, as a share of its format's
            maximum, is above this.

    Returns:
        (B, 1, H, W) bool, True = hole.

    Raises:
        ShapeError: Wrong size.
        RangeError: Not binary, or not finite.
    """
    if isinstance(mask, str | Path):
        mask = load_image(mask)
    if isinstance(mask, Image.Image):
        mask = np.array(mask if mask.mode in ("1", "L", "I;16") else mask.convert("L"))
    values = _tensor(mask) if isinstance(mask, np.ndarray) else mask
    if not isinstance(values, Tensor):
        raise ShapeError(f"mask is {describe(mask)}; expected a path, a PIL image, an array or a tensor.")
    levels = _LEVELS.get(values.dtype, 1)
    values = values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise RangeError("mask holds NaN or infinite values; expected 0 and 1, with 1 = hole.")
    top = float(values.max()) if values.numel() else 0.0
    if threshold is not None:
        values = (values / levels > threshold).double()
    elif top in (255.0, 65535.0):
        values = values / top
    hole = _mask_layout(values, pixels.stored)
    check_binary_mask(hole)
    return hole != 0


def _mask_layout(values: Tensor, stored: Tensor) -> Tensor:
    """Find (B, 1, H, W) in the layouts people use for masks."""
    batch, _, height, width = stored.shape
    shape = tuple(values.shape)
    if shape in ((height, width), (1, height, width), (height, width, 1), (1, 1, height, width)):
        return values.reshape(1, 1, height, width).expand(batch, 1, height, width)
    if shape in ((batch, height, width), (batch, 1, height, width), (batch, height, width, 1)):
        return values.reshape(batch, 1, height, width)
    raise ShapeError(
        f"mask has shape {shape} and the image is {height} x {width} (height x width, {batch} in the batch); expected "
        f"a mask of the same height and width. Resize the mask with nearest-neighbour interpolation."
    )
