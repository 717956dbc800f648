"""Random masks whose hole ratio is drawn first and then reached."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.data.mask_shapes import paint_boxes, paint_strokes

__all__ = ["MaskGenerator", "MaskKind"]

MaskKind = Literal["mixed", "strokes", "boxes"]

_LARGEST = 0.95
_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class MaskGenerator:
    """Free-form masks with hole ratios uniform over a range; the same `rng` state gives the same mask.

    Strokes stop at the very pixel that reaches the ratio; boxes come within one percentage point of it for
    sides of 64 pixels and more. Brush width, segment length and box sides scale with the image.

    Args:
        kind: "strokes"; "boxes"; or "mixed": half of the masks strokes, 15 % boxes, the others both.
        ratio: Smallest and largest hole ratio, in (0, 0.95].

    Raises:
        ConfigError: Unknown kind, or a range that is empty or outside (0, 0.95].

    Example:
        >>> import numpy as np
        >>> from kdinpaint.data import MaskGenerator
        >>> mask = MaskGenerator("strokes", ratio=(0.25, 0.25))((64, 64), np.random.default_rng(0))
        >>> tuple(mask.shape), float(mask.mean())
        ((1, 64, 64), 0.25)
    """

    kind: MaskKind = "mixed"
    _: KW_ONLY
    ratio: tuple[float, float] = (0.01, 0.6)

    def __post_init__(self) -> None:
        check_choice(self.kind, ("mixed", "strokes", "boxes"), "kind")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1] <= _LARGEST:
            raise ConfigError(
                f"ratio is {self.ratio!r}; expected (smallest, largest) with 0 < smallest <= largest <= {_LARGEST}."
            )

    def __call__(self, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """Draw a ratio from the range, and a mask of it.

        Args:
            size: (H, W), at least 16.
            rng: Source of randomness; advanced.

        Returns:
            (1, H, W), float32, 1 = hole.

        Raises:
            ShapeError: A side is below 16 pixels.
        """
        return self.draw(size, rng, float(rng.uniform(*self.ratio)))

    def draw(self, size: tuple[int, int], rng: np.random.Generator, ratio: float) -> Tensor:
        """Draw a mask of a given hole ratio.

        Args:
            size: (H, W), at least 16.
            rng: Source of randomness; advanced.
            ratio: In (0, 0.95].

        Returns:
            (1, H, W), float32, 1 = hole.

        Raises:
            ShapeError: A side is below 16 pixels.
            ConfigError: `ratio` is outside (0, 0.95].
        """
        if len(size) != 2 or min(size) < _SMALLEST_SIDE:
            raise ShapeError(f"size is {size!r}; expected (height, width), each at least {_SMALLEST_SIDE}.")
        if not 0 < ratio <= _LARGEST:
            raise ConfigError(f"ratio is {ratio!r}; expected more than 0 and at most {_LARGEST}.")
        hole = np.zeros(size, dtype=np.bool_)
        target = max(round(ratio * hole.size), 1)
        boxes = self._share_of_boxes(rng, ratio)
        if boxes:
            paint_boxes(hole, round(boxes * target), rng)
        if boxes < 1:
            paint_strokes(hole, target, rng)
        return torch.from_numpy(hole.astype(np.float32))[None]

    def _share_of_boxes(self, rng: np.random.Generator, ratio: float) -> float:
        if self.kind != "mixed":
            return float(self.kind == "boxes")
        chance, share = rng.uniform((0, 0.2), (1, 0.8)).tolist()
        if chance > 0.85:
            return 1.0
        # Below 5 % there is not enough to share between two shapes.
        return share if chance > 0.5 and ratio >= 0.05 else 0.0
