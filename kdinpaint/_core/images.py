"""The one way in which image files are opened: checked before they are decoded, every failure by name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from kdinpaint._core.errors import ImageFileError

__all__ = ["MAX_PIXELS", "PathLike", "open_image"]

PathLike = str | os.PathLike[str]

MAX_PIXELS = 100_000_000


@contextmanager
def open_image(
    path: PathLike | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Iterator[Image.Image]:
    """Open an image with its header read, its size checked and nothing decoded yet.

    Args:
        path: The file, or its content as a stream.
        max_pixels: Larger images are refused.
        name: What error messages call it; the path by default.

    Yields:
        The Pillow image. Whatever goes wrong while it is used is reported as ImageFileError.

    Raises:
        ImageFileError: The file is missing, foreign, damaged or too large.
    """
    shown = path if name is None else name
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise ImageFileError(
                    f"{shown} has {image.width} x {image.height} pixels, more than the limit of {max_pixels}. "
                    f"If the file can be trusted, pass a larger max_pixels."
                )
            yield image
    except ImageFileError:
        raise
    except FileNotFoundError as error:
        raise ImageFileError(f"{shown} does not exist.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageFileError(
            f"{shown} is too large: {error} The limit here is {max_pixels} pixels; if the file can be "
            f"trusted, raise PIL.Image.MAX_IMAGE_PIXELS as well."
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise ImageFileError(
            f"{shown} cannot be read as an image ({type(error).__name__}: {error}). Restore or remove the file."
        ) from error
