"""The irregular masks of Liu et al.: measured, binned, and read as 1 = hole whichever archive they come from."""

import warnings
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, DataError, KDInpaintWarning
from kdinpaint._core.images import PathLike
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.ops.masks import RATIO_BINS

__all__ = ["Border", "IrregularMasks", "Split", "find_archive"]

Border = Literal["clear", "near"]
Split = Literal["test", "train"]
_FOLDERS = {
    "test": ("mask/testing_mask_dataset", "testing_mask_dataset"),
    "train": ("irregular_mask/disocclusion_img_mask", "disocclusion_img_mask"),
}
_PUBLISHED = {"test": "hole", "train": "known"}
_MARGIN = 50 / 512  # holes of the masks with a border keep 50 pixels away from it
_TRIES = 50
_GROWTH = 24 / 512


def find_archive(root: PathLike, wanted: Split) -> Split | None:
    """Which of the two archives lies at a folder, by its layout: `wanted` if it is there, or the other, or None."""
    folder = Path(root)
    other: Split = "train" if wanted == "test" else "test"
    for split in (wanted, other):
        names = _FOLDERS[split]
        if names[-1] in folder.parts or any((folder / name).is_dir() for name in names):
            return split
    return None


class _Measured(NamedTuple):
    ratio: NDArray[np.float64]
    near: NDArray[np.bool_]


class IrregularMasks(MaskFolder):
    """The NVIDIA irregular masks: 12,000 to test with, 55,116 raw ones to train with.

    The test masks come in six bins of the hole ratio and two kinds of 1,000 each: the holes of one keep 50 pixels
    away from the border. Which file belongs where is documented nowhere, so both are measured, file by file, when
    they are first asked for (about four milliseconds each). White is hole in the test archive and known in the
    training archive; the polarity is decided from the files, and a warning says when it is not the published one.

    Reading at another size takes the nearest pixel: a hole never grows, and its share is kept on average. A call
    ``masks(size, rng)`` gives a random mask for training. With `augment` (the default of the training set, as its
    authors ask for) it is a random square window, turned and mirrored at random, whose hole is dilated by 0 to
    24 pixels of 512; how much is our choice. Masks whose ratio is not within `ratio` are drawn again.

    Source: Liu et al., Image Inpainting for Irregular Holes Using Partial Convolutions, ECCV 2018.

    Args:
        root: The folder of the files, or the one into which the archive was unpacked, be it beside the other archive.
        split: "test" or "train": which archive.
        polarity: What white means: "hole", "known", or "auto".
        ratio: Smallest and largest hole ratio of the masks that a call gives.
        augment: See above.

    Attributes:
        paths: The files.
        polarity: "hole" or "known".

    Raises:
        DataError: No image in the folder, or "auto" cannot decide.
        RangeError: "auto" read a file that is not binary.
        ImageFileError: "auto" read a file that is damaged.
        ConfigError: An option is not one of its choices, or the range of ratios is empty.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from kdinpaint.data import IrregularMasks
        >>> hole = np.zeros((512, 512), np.uint8); hole[100:300, 100:300] = 255
        >>> Path("masks").mkdir(); Image.fromarray(hole).save("masks/00000.png")
        >>> masks = IrregularMasks("masks")
        >>> masks.polarity, masks.ratios.round(3).tolist(), masks.select(0.1, 0.2, border="clear")
        ('hole', [0.153], [0])
    """

    COUNTS: ClassVar[dict[str, int]] = {"test": 12_000, "train": 55_116}

    def __init__(
        self,
        root: PathLike,
        *,
        split: Split = "test",
        polarity: Literal["auto", "hole", "known"] = "auto",
        ratio: tuple[float, float] = (RATIO_BINS[0], RATIO_BINS[-1]),
        augment: bool | None = None,
    ) -> None:
        check_choice(split, ("test", "train"), "split")
        if len(ratio) != 2 or not 0 <= ratio[0] < ratio[1] <= 1:
            raise ConfigError(f"ratio is {ratio!r}; expected (smallest, largest) with 0 <= smallest < largest <= 1.")
        folder = Path(root)
        inside = [folder / name for name in _FOLDERS[split] if (folder / name).is_dir()]
        super().__init__(inside[0] if inside else folder, polarity=polarity)
        self.ratio = ratio
        self.augment = split == "train" if augment is None else augment
        if polarity == "auto" and self.polarity != _PUBLISHED[split]:
            warnings.warn(
                f"{folder}: white means {self.polarity} in these files, {_PUBLISHED[split]} in the published {split} "
                f"masks. They are read as what they are; pass polarity='{self.polarity}' if that is meant, or "
                f"the other split.",
                KDInpaintWarning,
                stacklevel=2,
            )

    @property
    def ratios(self) -> NDArray[np.float64]:
        """The hole ratio of every file, (n,), measured at its own size."""
        return self._measured.ratio

    @property
    def near_border(self) -> NDArray[np.bool_]:
        """Whether a hole comes nearer to the border than 50 pixels of 512, (n,)."""
        return self._measured.near

    def select(self, low: float, high: float, *, border: Border | None = None) -> list[int]:
        """The numbers of the masks with a hole ratio in (low, high].

        Args:
            low: Not included.
            high: Included.
            border: "clear": holes keep away from the border; "near": they do not; None: all.

        Raises:
            ConfigError: `border` is none of these.
        """
        inside = (self.ratios > low) & (self.ratios <= high)
        if border is not None:
            check_choice(border, ("clear", "near"), "border")
            inside &= self.near_border == (border == "near")
        return [int(index) for index in np.flatnonzero(inside)]

    def __call__(self, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """Draw a random mask.

        Args:
            size: (H, W).
            rng: Source of randomness; advanced.

        Returns:
            (1, H, W), float32, 1 = hole.

        Raises:
            DataError: No mask within the range of ratios in 50 tries.
        """
        low, high = self.ratio
        for _ in range(_TRIES):
            index = int(rng.integers(len(self.paths)))
            mask = _varied(self.read(index), size, rng) if self.augment else self.read(index, size)
            if low <= float(mask.mean()) <= high:
                return mask
        raise DataError(
            f"{self.paths[0].parent}: none of {_TRIES} random masks has a hole ratio from {low:g} to {high:g}. "
            f"Check the polarity ({self.polarity}), or pass another range as ratio."
        )

    @cached_property
    def _measured(self) -> _Measured:
        ratio, near = [], []
        for index in range(len(self.paths)):
            hole = self.read(index)[0]
            ratio.append(float(hole.double().mean()))
            rows, columns = (round(_MARGIN * side) for side in hole.shape)
            inner = hole[rows : hole.shape[0] - rows, columns : hole.shape[1] - columns]
            near.append(bool(inner.sum() < hole.sum()))
        return _Measured(np.array(ratio), np.array(near))


def _varied(mask: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A random window of a mask, turned, mirrored, its hole dilated, at another size."""
    short = min(mask.shape[1:])
    growth = int(rng.integers(round(_GROWTH * short) + 1))
    side = int(rng.integers(short // 2, short + 1))
    top, left = (int(rng.integers(length - side + 1)) for length in mask.shape[1:])
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    if growth:
        # A square structuring element, one axis after the other.
        mask = F.max_pool2d(mask, (2 * growth + 1, 1), 1, (growth, 0))
        mask = F.max_pool2d(mask, (1, 2 * growth + 1), 1, (0, growth))
    mask = torch.rot90(mask[:, top : top + side, left : left + side], turns, (1, 2))
    return F.interpolate((mask.flip(-1) if mirrored else mask)[None], size=size, mode="nearest-exact")[0]
