"""One line of a manifest: a window of an image file, and the mask that hides a part of it."""

import base64
import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdinpaint._core.errors import DataError
from kdinpaint.data.windows import Window

__all__ = ["PairEntry"]


@dataclass(frozen=True)
class PairEntry:
    """A frozen (image, mask) pair.

    Attributes:
        image: Path of the image file relative to the root, with forward slashes.
        image_sha256: Of the image file.
        window: (top, left, side) in the upright image.
        mask: The mask at evaluation size, white = hole: a 1-bit PNG in base64.
        mask_sha256: Of the mask bits, row by row, packed eight to a byte.
        ratio: Hole ratio at evaluation size.
    """

    image: str
    image_sha256: str
    window: Window
    mask: str
    mask_sha256: str
    ratio: float

    @classmethod
    def make(cls, image: str, image_sha256: str, window: Window, mask: Tensor) -> "PairEntry":
        """Freeze a pair.

        Args:
            image: Relative path.
            image_sha256: Of the file.
            window: (top, left, side).
            mask: (1, s, s), 1 = hole.
        """
        bits = mask[0].numpy() > 0.5
        png = io.BytesIO()
        Image.fromarray(bits).save(png, format="PNG", optimize=True)
        return cls(
            image=image,
            image_sha256=image_sha256,
            window=window,
            mask=base64.b64encode(png.getvalue()).decode("ascii"),
            mask_sha256=hashlib.sha256(np.packbits(bits).tobytes()).hexdigest(),
            ratio=float(bits.mean()),
        )

    def read_mask(self, size: int) -> Tensor:
        """Unpack and verify the mask.

        Args:
            size: Evaluation size.

        Returns:
            (1, size, size), float32, 1 = hole.

        Raises:
            DataError: The mask is damaged, of another size, or not the one that was frozen.
        """
        try:
            with Image.open(io.BytesIO(base64.b64decode(self.mask, validate=True))) as png:
                bits = np.array(png.convert("1"))
        except Exception as error:  # Pillow's decoders raise almost anything on damaged data
            raise DataError(f"The mask of {self.image} is damaged ({error}). Restore the manifest.") from error
        digest = hashlib.sha256(np.packbits(bits).tobytes()).hexdigest()
        if bits.shape != (size, size) or digest != self.mask_sha256:
            raise DataError(
                f"The mask of {self.image} ({bits.shape}, sha256 {digest[:12]}) is not the one that was "
                f"frozen ({(size, size)}, sha256 {self.mask_sha256[:12]}). Restore the manifest."
            )
        return torch.from_numpy(bits.astype(np.float32))[None]
