"""Photographs out of a store, decoded when they are asked for."""

import hashlib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, KDInpaintWarning
from kdinpaint.data.images import check_channels, decode_image
from kdinpaint.data.photos import OnError
from kdinpaint.data.stores import FolderStore, ImageStore, MemoryStore
from kdinpaint.data.windows import centre_window, cut_window

__all__ = ["Keep", "StoredPhotos"]

Keep = Literal["disk", "memory"]


class StoredPhotos:
    """Photographs of a store as a sequence; `photos[i]` is (channels, H, W), uint8.

    Made for millions: no file is opened before it is asked for. One that turns out to be damaged is warned of, and
    the next readable one stands for it, so that the length never changes.

    Args:
        store: See `kdinpaint.data.open_store`.
        indices: Which images of the store, in order; all by default.
        channels: 3 for RGB, 1 for grey.
        square: Bring the largest square in the middle to this side, in pixels; None leaves images as they are.
        enough: JPEG files are decoded smaller while both sides keep this many pixels, see `decode_image`.
        on_error: "skip" or "raise".
        keep: "memory" copies the encoded images to memory first.

    Attributes:
        store: As given, or the copy in memory.
        channels: As given.

    Raises:
        DataError: There is no image.
        ImageFileError: With "raise" on access, or while copying to memory, an image that cannot be read.
        ConfigError: An option is not one of its choices.

    Example:
        >>> from kdinpaint.data import StoredPhotos, demo_photos, open_store
        >>> store = open_store(demo_photos().train[0].parent)
        >>> chosen = [i for i in range(len(store)) if store.name(i) == "chelsea.png"]
        >>> photos = StoredPhotos(store, chosen, square=64)
        >>> len(photos), photos[0].dtype, tuple(photos[0].shape)
        (1, torch.uint8, (3, 64, 64))
    """

    def __init__(
        self,
        store: ImageStore,
        indices: Iterable[int] | None = None,
        *,
        channels: int = 3,
        square: int | None = None,
        enough: int | None = None,
        on_error: OnError = "skip",
        keep: Keep = "disk",
    ) -> None:
        check_channels(channels)
        check_choice(on_error, ("skip", "raise"), "on_error")
        check_choice(keep, ("disk", "memory"), "keep")
        for name, value in (("square", square), ("enough", enough)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1 pixel, or None.")
        chosen = np.fromiter(range(len(store)) if indices is None else indices, dtype=np.int64)
        if not len(chosen):
            raise DataError("There is no photograph; expected at least one.")
        if keep == "memory":
            store, chosen = MemoryStore(store, chosen.tolist()), np.arange(len(chosen))
        self.store = store
        self.channels = channels
        self.square, self.enough = square, enough
        self._indices = chosen
        self._on_error = on_error
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Tensor:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"photograph {index} of {count}.")
        for step in range(count):
            current = (index + step) % count
            if current in self._broken:
                continue
            try:
                return self._decode(int(self._indices[current]))
            except ImageFileError as error:
                if self._on_error == "raise":
                    raise
                self._broken.add(current)
                warnings.warn(f"{error} The next photograph is used instead.", KDInpaintWarning, stacklevel=2)
        raise DataError(f"None of the {count} photographs can be decoded. The first: {self.name(0)}.")

    def name(self, index: int) -> str:
        """The path of a photograph inside its store."""
        return self.store.name(self.number(index))

    def number(self, index: int) -> int:
        """The number of a photograph inside its store."""
        return int(self._indices[index])

    def files(self) -> list[Path]:
        """The files, for `PairManifest.build`.

        Raises:
            DataError: The photographs are not files of their own but in shards or in memory.
        """
        if not isinstance(self.store, FolderStore):
            raise DataError(
                f"the photographs lie in a {type(self.store).__name__}; a manifest pins image files. Unpack the "
                f"evaluation images, and open them with keep='disk'."
            )
        return [self.store.path(index) for index in self._indices.tolist()]

    @property
    def fingerprint(self) -> str:
        """A sha256 of the names in their order: two runs with the same one trained on the same list."""
        digest = hashlib.sha256()
        for index in self._indices.tolist():
            digest.update(self.store.name(index).encode() + b"\n")
        return digest.hexdigest()

    def _decode(self, index: int) -> Tensor:
        place = self.store.place(index)
        photo = decode_image(self.store.read(index), name=place, channels=self.channels, enough=self.enough)
        if self.square is None:
            return photo
        cut = cut_window(photo, centre_window(*photo.shape[1:]), self.square)
        return cut.mul(255).round().to(torch.uint8)
