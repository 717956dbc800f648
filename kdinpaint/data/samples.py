"""The training stream: sample i depends on the seed and i, and on nothing else."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.data.windows import cut_window, draw_window

__all__ = ["MaskSource", "Photos", "TrainingSamples"]

MaskSource = Callable[[tuple[int, int], np.random.Generator], Tensor]


class Photos(Protocol):
    """What `TrainingSamples` needs of photographs: a length, and (C, H, W) uint8 tensors by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Pairs of an image and a mask, each a pure function of (seed, index).

    A resumed run, every student of a comparison and any number of workers therefore see the same stream.
    Index i belongs to epoch i // len(photos), in which every photograph comes once, in an order of its own.
    A square window of the photograph is resized to `size` and perhaps flipped; the mask is drawn last.

    Args:
        photos: A `PhotoFolder`, or any sequence of (C, H, W) uint8 tensors.
        masks: A `MaskGenerator`, a `MaskFolder`, or any callable ``(size, rng) -> (1, H, W)``.
        size: Side of the samples, in pixels.
        seed: Not negative.
        length: Number of samples, over all epochs.
        flip: Mirror half of the images horizontally.
        recolor: Shuffle the channels and change gamma, contrast and brightness of each image. Worth much with
            a handful of photographs, where a network otherwise learns their colours.
        min_window: Smallest side of the window, as a share of the photograph's short side, in (0, 1].

    Raises:
        ConfigError: An option is out of its range, or there are no photographs.
        DataError: On access, a photograph is smaller than `size`.
        ShapeError: On access, `masks` gave another shape than (1, size, size).

    Example:
        >>> import torch
        >>> from kdinpaint.data import MaskGenerator, TrainingSamples
        >>> photos = [torch.randint(0, 256, (3, 80, 100), dtype=torch.uint8)]
        >>> samples = TrainingSamples(photos, MaskGenerator(), size=64, seed=0, length=10)
        >>> {name: tuple(value.shape) for name, value in samples[7].items()}
        {'image': (3, 64, 64), 'mask': (1, 64, 64)}
    """

    def __init__(
        self,
        photos: Photos,
        masks: MaskSource,
        *,
        size: int,
        seed: int,
        length: int,
        flip: bool = True,
        recolor: bool = False,
        min_window: float = 0.5,
    ) -> None:
        if size < 1 or length < 1 or seed < 0 or not 0 < min_window <= 1:
            raise ConfigError(
                f"size={size}, length={length}, seed={seed}, min_window={min_window}; expected size and "
                f"length of at least 1, a seed that is not negative, and min_window in (0, 1]."
            )
        if len(photos) == 0:
            raise ConfigError("photos is empty; expected at least one photograph.")
        self.photos, self.masks = photos, masks
        self.size, self.seed, self.length = size, seed, length
        self.flip, self.recolor, self.min_window = flip, recolor, min_window
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"sample {index} of {self.length}.")
        epoch, place = divmod(index, len(self.photos))
        photo = self.photos[int(self._permutation(epoch)[place])]
        rng = np.random.default_rng([self.seed, 1, index])
        window = draw_window(*photo.shape[1:], size=self.size, smallest=self.min_window, rng=rng)
        flipped = rng.random() < 0.5 and self.flip
        image = cut_window(photo, window, self.size)
        mask = self.masks((self.size, self.size), rng)
        if tuple(mask.shape) != (1, self.size, self.size):
            raise ShapeError(f"masks gave {describe(mask)}; expected (1, {self.size}, {self.size}).")
        if self.recolor:
            image = _recolored(image, rng)
        return {"image": image.flip(-1) if flipped else image.contiguous(), "mask": mask.float()}

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, 0, epoch])
            self._order = epoch, rng.permutation(len(self.photos))
        return self._order[1]


def _recolored(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Channels in another order, another gamma, and each channel squeezed to 70-100 % of [0, 1] somewhere in it."""
    order = torch.from_numpy(rng.permutation(image.shape[0]))
    gamma = float(np.exp(rng.uniform(-0.4, 0.4)))
    contrast, place = torch.from_numpy(rng.uniform((0.7, 0), 1, (image.shape[0], 2)).astype(np.float32)).unbind(1)
    brightness = place * (1 - contrast)
    return image[order] ** gamma * contrast[:, None, None] + brightness[:, None, None]
