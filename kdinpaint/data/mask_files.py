"""A folder of mask files of either polarity."""

import logging
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import DataError, RangeError
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import list_images, read_image
from kdinpaint.ops.masks import Polarity, orient_mask

__all__ = ["MaskFolder"]

_SAMPLE = 200


class MaskFolder:
    """Mask files, read as 1 = hole whatever white means in them.

    With "auto" up to 200 files, evenly spaced, vote: less than 45 % white says that white is hole, more than
    65 % that white is known, since holes are rarely larger than half of the image. The folder is decided when
    80 % of the votes agree. The decision is logged to "kdinpaint" at level INFO and kept in `polarity`.

    An instance can also be called as ``masks(size, rng)``: a random file at that size, as `MaskGenerator`
    draws a random mask.

    Args:
        root: A folder, searched recursively (see `list_images`).
        polarity: What white means: "hole", "known", or "auto".

    Attributes:
        paths: The files.
        polarity: "hole" or "known".

    Raises:
        DataError: No image in the folder, or "auto" cannot decide.
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
        mask = orient_mask(self._white(index), self.polarity).float()
        if size is not None and tuple(mask.shape[1:]) != tuple(size):
            mask = F.interpolate(mask[None], size=size, mode="nearest-exact")[0]
        return mask

    def __call__(self, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """Read a random mask at `size`: (1, H, W), float32, 1 = hole. Raises as `read` does."""
        return self.read(int(rng.integers(len(self.paths))), size)

    def _white(self, index: int) -> Tensor:
        path = self.paths[index]
        grey = read_image(path, channels=1)
        between = float(((grey >= 32) & (grey <= 223)).float().mean())
        if between > 0.05:
            raise RangeError(
                f"{path} is not binary: {between:.0%} of its pixels are neither black nor white (32 to 223); "
                f"expected at most 5 %. Threshold the file, or take it out of the mask folder."
            )
        return grey >= 128

    def _decide(self, root: PathLike) -> Polarity:
        count = min(len(self.paths), _SAMPLE)
        sample = np.linspace(0, len(self.paths) - 1, count).round().astype(int).tolist()
        shares = torch.stack([self._white(index).float().mean() for index in sample])
        votes = {"hole": int((shares < 0.45).sum()), "known": int((shares > 0.65).sum())}
        winner = max(votes, key=lambda name: votes[name])
        if votes[winner] == 0 or votes[winner] < 0.8 * sum(votes.values()):
            low, middle, high = torch.quantile(shares, torch.tensor([0.0, 0.5, 1.0])).tolist()
            raise DataError(
                f"{root}: it cannot be told whether white means hole or known. White covers {low:.0%} to "
                f"{high:.0%} of the {count} masks looked at (median {middle:.0%}); {votes['hole']} of them "
                f"say hole, {votes['known']} known. Say what white means: pass polarity='hole' or 'known'."
            )
        logging.getLogger("kdinpaint").info(
            "%s: white means %s, say %d of %d masks (median white share %.0f %%).",
            root, winner, votes[winner], count, 100 * float(shares.median()),
        )  # fmt: skip
        return cast(Polarity, winner)
