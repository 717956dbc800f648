"""A folder of mask files of either polarity."""

import logging
from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import list_images
from kdinpaint.data.polarity_vote import read_white, vote_on_polarity
from kdinpaint.ops.masks import Polarity, orient_mask

__all__ = ["MaskFolder"]


class MaskFolder:
    """Mask files, read as 1 = hole whatever white means in them.

    With "auto" up to 200 files, evenly spaced over each folder, vote: less than 45 % white says that white is hole,
    more than 65 % that white is known, since holes are rarely larger than half of the image. 80 % of the votes must
    agree, and so must the folders below `root`: two archives of opposite polarity under one root are refused. The
    decision is logged to "kdinpaint" at level INFO and kept in `polarity`.

    An instance can also be called as ``masks(size, rng)``: a random file at that size, as `MaskGenerator`
    draws a random mask.

    Args:
        root: A folder, searched recursively (see `list_images`).
        polarity: What white means: "hole", "known", or "auto".

    Attributes:
        paths: The files.
        polarity: "hole" or "known".

    Raises:
        DataError: No image in the folder, or "auto" cannot decide, as when its folders disagree.
        RangeError: "auto" read a file that is not binary.
        ImageFileError: "auto" read a file that is damaged.
        ConfigError: Unknown polarity.
    """

    def __init__(self, root: PathLike, *, polarity: Literal["auto", "hole", "known"] = "auto") -> None:
        check_choice(polarity, ("auto", "hole", "known"), "polarity")
        self.paths = list_images(root)
        self.polarity: Polarity = self._decide(root) if polarity == "auto" else polarity

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, size: tuple[int, int] | None = None) -> Tensor:
        """Read one mask.

        Args:
            index: Which file.
            size: (H, W) to resize to, by nearest neighbour; by default that of the file.

        Returns:
            (1, H, W), float32, 1 = hole.

        Raises:
            RangeError: More than 5 % of the pixels are neither black nor white.
            ImageFileError: The file is damaged.
            IndexError: There is no such file.
        """
        mask = orient_mask(read_white(self.paths[index]), self.polarity).float()
        if size is not None and tuple(mask.shape[1:]) != tuple(size):
            mask = F.interpolate(mask[None], size=size, mode="nearest-exact")[0]
        return mask

    def __call__(self, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """Read a random mask at `size`: (1, H, W), float32, 1 = hole. Raises as `read` does."""
        return self.read(int(rng.integers(len(self.paths))), size)

    def _decide(self, root: PathLike) -> Polarity:
        vote = vote_on_polarity(root, self.paths)
        for error in vote.refused.values():
            raise error
        logging.getLogger("kdinpaint").info(
            "%s: white means %s, say %d of %d masks (median white share %.0f %%).",
            root, vote.polarity, vote.agreed, vote.count, 100 * vote.median,
        )  # fmt: skip
        return vote.polarity
