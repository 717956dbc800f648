"""A folder of photographs as a sequence of 8-bit tensors that survives bad files."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import DataError, ImageFileError, KDInpaintError, KDInpaintWarning
from kdinpaint._core.images import PathLike, open_image
from kdinpaint.data.images import check_channels, list_images, read_image

__all__ = ["OnError", "PhotoFolder"]

OnError = Literal["skip", "raise"]


class PhotoFolder:
    """Photographs from a folder or a list of files; `photos[i]` is (channels, H, W), uint8.

    The header of every file is read once, at construction. With ``on_error="skip"`` files that are damaged or
    too small are left out, and one warning lists them. A file that turns out to be broken only when it is
    decoded stands, from then on, for the next readable one, so that the length never changes.

    Decoded photographs are kept until `cache_bytes` are used, in every process that reads them; the cache is
    not pickled.

    Args:
        root: A folder, searched recursively (see `list_images`), or the files themselves.
        channels: 3 for RGB, 1 for grey.
        min_size: Smallest accepted short side, in pixels.
        on_error: "skip" or "raise".
        cache_bytes: Memory for decoded photographs; 0 for none.

    Attributes:
        paths: The files in use.
        channels: As given.

    Raises:
        DataError: No usable photograph, or, with "raise", one that is too small.
        ImageFileError: With "raise", a file that cannot be read.
        ConfigError: An option is not one of its choices.

    Example:
        >>> from kdinpaint.data import PhotoFolder, demo_photos
        >>> photos = PhotoFolder(demo_photos().held_out, min_size=256)
        >>> len(photos), photos[0].dtype, tuple(photos[0].shape)
        (2, torch.uint8, (3, 300, 451))
    """

    def __init__(
        self,
        root: PathLike | Sequence[PathLike],
        *,
        channels: int = 3,
        min_size: int | None = None,
        on_error: OnError = "skip",
        cache_bytes: int = 1 << 30,
    ) -> None:
        check_channels(channels)
        check_choice(on_error, ("skip", "raise"), "on_error")
        candidates = list_images(root) if isinstance(root, str | os.PathLike) else [Path(path) for path in root]
        if not candidates:
            raise DataError("The list of photographs is empty; expected at least one file.")
        self.channels = channels
        self._on_error = on_error
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: dict[int, Tensor] = {}
        self._broken: set[int] = set()
        self.paths: list[Path] = []
        refused: list[tuple[Path, KDInpaintError]] = []
        for path in candidates:
            try:
                _check_header(path, min_size)
            except (ImageFileError, DataError) as error:
                if on_error == "raise":
                    raise
                refused.append((path, error))
            else:
                self.paths.append(path)
        if not self.paths:
            reasons = " ".join(str(error) for _, error in refused[:3])
            raise DataError(f"None of the {len(refused)} photographs can be used. The first: {reasons}")
        if refused:
            names = ", ".join(str(path) for path, _ in refused[:10])
            more = ", ..." if len(refused) > 10 else ""
            warnings.warn(
                f"{len(refused)} of {len(candidates)} photographs are damaged or too small and left out: "
                f"{names}{more}. Pass on_error='raise' to see why.",
                KDInpaintWarning,
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        count = len(self.paths)
        if not -count <= index < count:
            raise IndexError(f"photograph {index} of {count}.")
        for step in range(count):
            current = (index + step) % count
            if current in self._cache:
                return self._cache[current].clone()
            if current not in self._broken:
                photo = self._decode(current)
                if photo is not None:
                    return photo
        raise DataError(f"None of the {count} photographs can be decoded. The first: {self.paths[0]}.")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    def _decode(self, index: int) -> Tensor | None:
        try:
            photo = read_image(self.paths[index], channels=self.channels)
        except ImageFileError as error:
            if self._on_error == "raise":
                raise
            self._broken.add(index)
            warnings.warn(f"{error} The next photograph is used instead.", KDInpaintWarning, stacklevel=3)
            return None
        if self._cached_bytes + photo.nbytes <= self._cache_bytes:
            self._cached_bytes += photo.nbytes
            self._cache[index] = photo.clone()
        return photo


def _check_header(path: Path, min_size: int | None) -> None:
    with open_image(path) as image:
        width, height = image.size
    if min_size is not None and min(height, width) < min_size:
        raise DataError(
            f"{path} is {width} x {height} pixels; expected sides of at least {min_size} (min_size). "
            f"Remove it, or pass on_error='skip'."
        )
