"""The pairs of a manifest as a dataset that refuses to be another one."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor
from torch.utils.data import Dataset

from kdinpaint._core.errors import DataError, ImageFileError
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import check_channels, read_image
from kdinpaint.data.windows import cut_window

if TYPE_CHECKING:
    from kdinpaint.data.manifest import PairManifest

__all__ = ["ManifestPairs", "Pair"]


class Pair(TypedDict):
    """One evaluation pair: image (C, s, s) in [0, 1], mask (1, s, s), 1 = hole, its ratio, a unique name."""

    image: Tensor
    mask: Tensor
    ratio: float
    name: str


class ManifestPairs(Dataset[Pair]):
    """What `PairManifest.pairs` returns, which documents the arguments and errors."""

    def __init__(self, manifest: "PairManifest", root: PathLike, *, channels: int = 3) -> None:
        check_channels(channels)
        self.manifest, self.root, self.channels = manifest, Path(root), channels
        for image, expected in {entry.image: entry.image_sha256 for entry in manifest.entries}.items():
            self._verify(self.root / image, expected)
        for entry in manifest.entries:
            entry.read_mask(manifest.size)

    def __len__(self) -> int:
        return len(self.manifest.entries)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}.")
        entry, size = self.manifest.entries[index], self.manifest.size
        photo = read_image(self.root / entry.image, channels=self.channels)
        return {
            "image": cut_window(photo, entry.window, size),
            "mask": entry.read_mask(size),
            "ratio": entry.ratio,
            "name": f"{index:05d}_{Path(entry.image).stem}",
        }

    def _verify(self, path: Path, expected: str) -> None:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError as error:
            raise DataError(
                f"{path} is in the manifest and not on disk. Pass the root that the manifest was made for."
            ) from error
        except OSError as error:
            raise ImageFileError(f"{path} cannot be read: {error.strerror}.") from error
        if digest != expected:
            raise DataError(
                f"{path} is not the file that was frozen (sha256 {digest[:12]}, expected {expected[:12]}): "
                f"the evaluation would not be the same. Restore the file, or build a new manifest."
            )
