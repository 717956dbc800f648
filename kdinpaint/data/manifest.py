"""The frozen evaluation list: which window of which image, under which mask."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from kdinpaint._core.errors import DataError
from kdinpaint._core.files import write_text
from kdinpaint._core.images import PathLike
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.data.mask_generator import MaskGenerator
from kdinpaint.data.pair_build import build_entries
from kdinpaint.data.pair_dataset import ManifestPairs
from kdinpaint.data.pair_entry import PairEntry
from kdinpaint.ops.masks import RATIO_BINS

__all__ = ["PairManifest"]

_VERSION = 1


@dataclass(frozen=True)
class PairManifest:
    """A list of (image, mask) pairs that stays the same for every method, machine and year.

    Masks are embedded; image files are pinned by their sha256. Two results can be compared when they name the
    same `hash`.

    Attributes:
        size: Side of images and masks at evaluation, in pixels.
        entries: The pairs.
        description: Free text.

    Example:
        >>> from kdinpaint.data import MaskGenerator, PairManifest, demo_photos
        >>> files = demo_photos().held_out
        >>> manifest = PairManifest.build(files, size=64, masks=MaskGenerator(), per_bin=2, seed=0)
        >>> pair = manifest.pairs(files[0].parent)[0]
        >>> len(manifest.entries), tuple(pair["image"].shape), 0.01 < pair["ratio"] <= 0.1
        (12, (3, 64, 64), True)
    """

    size: int
    entries: tuple[PairEntry, ...]
    description: str = ""

    @classmethod
    def build(
        cls,
        photos: PathLike | Sequence[PathLike],
        *,
        size: int,
        masks: MaskGenerator | MaskFolder,
        seed: int,
        per_bin: int | None = None,
        pairs: int | None = None,
        bins: Sequence[float] = RATIO_BINS,
        windows_per_photo: int = 1,
        min_side: int | None = None,
        description: str = "",
    ) -> "PairManifest":
        """Choose pairs, as many in every bin of the hole ratio.

        Photographs take turns in a shuffled order. The first window of each is the largest square in the
        middle; further ones are random squares of at least half its side. Mask files are measured after they
        are resized to `size`, never taken by name; a bin with fewer files than pairs uses them again.

        Args:
            photos: A folder, or files; paths are kept relative to it, or to their deepest common folder.
                Files that are damaged or smaller than `size` are left out with a warning.
            size: Side at evaluation, in pixels.
            masks: Where masks come from. Of a generator the kind counts; the ratios are those of the bins.
            seed: Not negative.
            per_bin: Pairs in every bin, or
            pairs: pairs in all, a multiple of the number of bins.
            bins: Edges of the half-open bins (low, high].
            windows_per_photo: Different windows of a photograph before one comes again.
            min_side: Smallest short side of a photograph, `size` by default. With less, as for the 178 pixels of
                CelebA at 256, small ones are enlarged; further windows of a photograph need `size` all the same.
            description: Free text to keep.

        Raises:
            DataError: No usable photograph, or no mask in any bin.
            ImageFileError: A photograph or mask file is damaged.
            RangeError: A mask file is not binary.
            ConfigError: Neither or both of `per_bin` and `pairs`, or an option out of its range.
        """
        entries = build_entries(
            photos,
            size=size,
            masks=masks,
            per_bin=per_bin,
            pairs=pairs,
            bins=bins,
            seed=seed,
            windows_per_photo=windows_per_photo,
            min_side=min_side,
        )
        return cls(size=size, entries=entries, description=description)

    @property
    def hash(self) -> str:
        """The sha256 of what is evaluated: everything but the description and the encoding of the masks."""
        content = self._content()
        del content["description"]
        for entry in content["entries"]:
            del entry["mask"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    def pairs(self, root: PathLike, *, channels: int = 3) -> ManifestPairs:
        """The pairs as a dataset; every image and mask is verified before it is returned.

        Args:
            root: The folder that the image paths are relative to.
            channels: 3 for RGB, 1 for grey.

        Returns:
            A dataset of dicts: image (C, s, s) float32 in [0, 1], mask (1, s, s) float32 with 1 = hole,
            ratio and a unique name.

        Raises:
            DataError: An image is missing or not the one that was frozen, or a mask is damaged.
            ImageFileError: An image cannot be read.
        """
        return ManifestPairs(self, root, channels=channels)

    def save(self, path: PathLike) -> None:
        """Write the manifest as JSON, atomically.

        Args:
            path: The file.

        Raises:
            OutputError: The file cannot be written.
        """
        text = json.dumps({"version": _VERSION, "hash": self.hash, **self._content()}, indent=1)
        write_text(Path(path), text + "\n")

    @classmethod
    def load(cls, path: PathLike) -> "PairManifest":
        """Read a manifest.

        Args:
            path: The file.

        Raises:
            DataError: The file is missing, damaged, edited, or of a version that is not known here.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            version = content["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not a manifest ({type(error).__name__}: {error}); expected the JSON file that "
                f"PairManifest.save writes."
            ) from error
        if version != _VERSION:
            raise DataError(f"{path} is a manifest of version {version!r}; expected {_VERSION}. Update kdinpaint.")
        try:
            entries = tuple(_entry(entry) for entry in content["entries"])
            manifest = cls(int(content["size"]), entries, str(content["description"]))
            recorded = content["hash"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged ({type(error).__name__}: {error}). Restore the file.") from error
        if manifest.hash != recorded:
            raise DataError(
                f"{path} was changed after it was saved: its content has hash {manifest.hash[:12]}, the file "
                f"says {str(recorded)[:12]}. Restore the file, or build a new manifest."
            )
        return manifest

    def _content(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "description": self.description,
            "entries": [asdict(entry) for entry in self.entries],
        }


def _entry(content: dict[str, Any]) -> PairEntry:
    if set(content) != {field.name for field in fields(PairEntry)}:
        raise ValueError(f"an entry has the fields {', '.join(sorted(content))}")
    if PurePosixPath(content["image"]).is_absolute() or ".." in PurePosixPath(content["image"]).parts:
        raise ValueError(f"the image path {content['image']!r} leaves the root")
    top, left, side = (int(value) for value in content["window"])
    return PairEntry(**{**content, "window": (top, left, side), "ratio": float(content["ratio"])})
