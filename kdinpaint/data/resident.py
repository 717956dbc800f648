"""Photographs and masks that live on the training device: whole batches made there, as fast as small networks eat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.files import atomic_path, write_tensors
from kdinpaint.data.samples import MaskSource, Photos
from kdinpaint.data.windows import cut_window

__all__ = ["ResidentBatches", "ResidentData"]

_FORMAT = "kdinpaint-resident-1"


@dataclass(frozen=True)
class ResidentData:
    """Photographs at one height or width, and a pool of masks, all 8-bit: what `ResidentBatches` draws from.

    Attributes:
        photos: (N, C, S, S), uint8. Each photograph fills the top left corner, its shorter side `short` pixels.
        extents: (N, 2), height and width of each photograph in `photos`.
        masks: (K, s, s), uint8, 1 = hole.

    Example:
        >>> import torch
        >>> from kdinpaint.data import MaskGenerator, ResidentData
        >>> photos = [torch.randint(0, 256, (3, 80, 100), dtype=torch.uint8)]
        >>> data = ResidentData.make(photos, MaskGenerator(), size=32, min_window=0.5, pool=8, seed=0)
        >>> tuple(data.photos.shape), data.extents.tolist(), tuple(data.masks.shape)
        ((1, 3, 80, 80), [[64, 80]], (8, 32, 32))
    """

    photos: Tensor
    extents: Tensor
    masks: Tensor

    @classmethod
    def make(
        cls,
        photos: Photos,
        masks: MaskSource,
        *,
        size: int,
        min_window: float,
        pool: int,
        seed: int,
        longest: float = 1.5,
    ) -> "ResidentData":
        """Decode and resize every photograph once, and draw the pool of masks.

        Photographs keep what windows of `size` pixels need: their shorter side becomes size / min_window, the longer
        is cut, about the middle, to `longest` times that. Smaller photographs stay as they are.

        Args:
            photos: A `PhotoFolder`, or any sequence of (C, H, W) uint8 tensors.
            masks: A `MaskGenerator`, a `MaskFolder`, or any callable ``(size, rng) -> (1, H, W)``.
            size: Side of the samples, in pixels.
            min_window: Smallest side of a window, as a share of the photograph's short side, in (0, 1].
            pool: Number of masks; flips, transposition and cyclic shifts make more of them.
            seed: Of the pool.
            longest: Largest aspect ratio that is kept.

        Raises:
            ConfigError: An option is out of its range, or there are no photographs.
            DataError: A photograph is smaller than `size`.
        """
        if size < 1 or pool < 1 or seed < 0 or not 0 < min_window <= 1 or longest < 1 or not len(photos):
            raise ConfigError(
                f"size={size}, pool={pool}, seed={seed}, min_window={min_window}, longest={longest} and {len(photos)} "
                f"photographs; expected positive numbers, min_window in (0, 1], longest of at least 1, and photographs."
            )
        short = round(size / min_window)
        small = [_reduced(photos[index], size, short, longest) for index in range(len(photos))]
        extents = torch.tensor([photo.shape[1:] for photo in small])
        side = int(extents.max())
        rng = np.random.default_rng([seed, 3])
        drawn = torch.cat([masks((size, size), rng) for _ in range(pool)])
        return cls(
            torch.stack([F.pad(p, (0, side - p.shape[2], 0, side - p.shape[1])) for p in small]),
            extents,
            (drawn != 0).to(torch.uint8),
        )

    def to(self, device: torch.device | str) -> "ResidentData":
        """The same data with the large tensors on a device."""
        return ResidentData(self.photos.to(device), self.extents, self.masks.to(device))

    def save(self, path: Path) -> None:
        """Write the data to a file, atomically; raises OutputError if that fails."""
        with atomic_path(path) as temporary:
            write_tensors(temporary, {"format": _FORMAT, **self.__dict__})

    @classmethod
    def load(cls, path: Path) -> "ResidentData":
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, damaged or foreign.
        """
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if state.pop("format") != _FORMAT:
                raise ValueError("another format")
            return cls(**state)
        except Exception as error:  # whatever readers make of a damaged file
            raise DataError(f"{path} cannot be read ({error}). Delete it: it is made again.") from error


class ResidentBatches:
    """Batches that are a pure function of (seed, step): the same for every network, restart and process.

    Sample i of the run belongs to epoch i // len(photos), in which every photograph comes once. A square window is
    resized bilinearly with antialiasing and perhaps flipped; masks come from the pool, turned and shifted.

    Args:
        data: On the device where the batches are wanted.
        size: Side of the samples; that of the masks.
        seed: Not negative.
        min_window: Smallest side of the window, as a share of the photograph's short side, in (0, 1].
        recolor: As in `TrainingSamples`.
        holes: False for masks of zeros, as a teacher wants them.

    Raises:
        ConfigError: Sizes do not fit, or an option is out of its range.

    Example:
        >>> import torch
        >>> from kdinpaint.data import MaskGenerator, ResidentBatches, ResidentData
        >>> photos = [torch.randint(0, 256, (3, 80, 100), dtype=torch.uint8)]
        >>> data = ResidentData.make(photos, MaskGenerator(), size=32, min_window=0.5, pool=8, seed=0)
        >>> first = next(ResidentBatches(data, size=32, seed=0).batches(0, 10, 4))
        >>> {name: tuple(value.shape) for name, value in first.items()}
        {'image': (4, 3, 32, 32), 'mask': (4, 1, 32, 32)}
    """

    def __init__(
        self,
        data: ResidentData,
        *,
        size: int,
        seed: int,
        min_window: float = 0.5,
        recolor: bool = False,
        holes: bool = True,
    ) -> None:
        if seed < 0 or not 0 < min_window <= 1 or tuple(data.masks.shape[1:]) != (size, size):
            raise ConfigError(
                f"seed={seed}, min_window={min_window}, size={size} and masks of {tuple(data.masks.shape[1:])}; "
                f"expected a seed that is not negative, min_window in (0, 1] and masks of that size."
            )
        self.data, self.size, self.seed = data, size, seed
        self.min_window, self.recolor, self.holes = min_window, recolor, holes
        self._extents: NDArray[np.int64] = data.extents.numpy()
        self._order: dict[int, NDArray[np.int64]] = {}

    def batches(self, first: int, last: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """Batches of steps first to last - 1.

        Args:
            first: Step.
            last: Step.
            batch: Images a step.

        Yields:
            image (batch, C, size, size), float32 in [0, 1], and mask (batch, 1, size, size), float32, 1 = hole.
        """
        for step in range(first, last):
            yield self.batch(step, batch)

    def batch(self, step: int, batch: int) -> dict[str, Tensor]:
        """The batch of one step; see `batches`."""
        rng = np.random.default_rng([self.seed, 2, step])
        index = self._photos(step * batch, batch)
        extent = self._extents[index]
        short = extent.min(1)
        smallest = np.minimum(np.maximum(self.size, np.rint(self.min_window * short).astype(np.int64)), short)
        side = rng.integers(smallest, short + 1)
        corner = rng.integers(0, extent - side[:, None] + 1)
        mirrored = rng.random(batch) < 0.5
        chosen = rng.integers(0, len(self.data.masks), batch)
        turns = rng.integers(0, 2, (batch, 3)).astype(bool)
        shift = rng.integers(0, self.size, (batch, 2))
        colors = _draw_colors(rng, batch, self.data.photos.shape[1]) if self.recolor else None

        image = self._windows(index, corner, side)
        image = torch.where(self._put(mirrored)[:, None, None, None], image.flip(-1), image)
        if colors is not None:
            image = _recolored(image, *(self._put(c) for c in colors))
        if not self.holes:
            return {"image": image, "mask": image.new_zeros(batch, 1, self.size, self.size)}
        mask = self.data.masks[self._put(chosen)]
        down, across, swap = self._put(turns)[:, :, None, None].unbind(1)
        mask = torch.where(down, mask.flip(1), mask)
        mask = torch.where(across, mask.flip(2), mask)
        mask = torch.where(swap, mask.transpose(1, 2), mask)
        place = torch.arange(self.size, device=mask.device)
        y, x = ((place + self._put(s)[:, None]) % self.size for s in shift.T)
        item = torch.arange(batch, device=mask.device)[:, None, None]
        return {"image": image, "mask": mask[item, y[:, :, None], x[:, None, :]][:, None].float()}

    def _windows(self, index: NDArray[np.int64], corner: NDArray[np.int64], side: NDArray[np.int64]) -> Tensor:
        """Windows at the size of the samples: one by one on a CPU, as two matrix products for the batch on a GPU."""
        if self.data.photos.device.type == "cpu":
            boxes = zip(index.tolist(), corner.tolist(), side.tolist(), strict=True)
            cuts = [cut_window(self.data.photos[i], (top, left, length), self.size) for i, (top, left), length in boxes]
            return torch.stack(cuts)
        photos = self.data.photos[self._put(index)].float() / 255
        rows = resampling_weights(corner[:, 0], side, self.size, photos.shape[-2])
        columns = resampling_weights(corner[:, 1], side, self.size, photos.shape[-1])
        image = torch.einsum("byh,bchw->bcyw", self._put(rows), photos)
        return torch.einsum("bxw,bcyw->bcyx", self._put(columns), image).clamp(0, 1)

    def _put(self, values: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self.data.photos.device, non_blocking=True)

    def _photos(self, start: int, count: int) -> NDArray[np.int64]:
        """Numbers of the photographs of samples start to start + count - 1."""
        total = len(self._extents)
        epochs = range(start // total, (start + count - 1) // total + 1)
        self._order = {e: self._order[e] if e in self._order else self._permutation(e) for e in epochs}
        joined = np.concatenate([self._order[e] for e in epochs])
        return joined[start - epochs[0] * total :][:count]

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, epoch]).permutation(len(self._extents))


def resampling_weights(
    start: NDArray[np.int64], side: NDArray[np.int64], size: int, length: int
) -> NDArray[np.float32]:
    """Bilinear antialiased resampling of an interval as a matrix: what `F.interpolate(antialias=True)` computes.

    Args:
        start: (B,), first pixel of the interval.
        side: (B,), its length.
        size: Number of samples wanted.
        length: Number of pixels there are.

    Returns:
        (B, size, length), float32; rows sum to 1.
    """
    scale = side[:, None, None] / size
    centre = scale * (np.arange(size)[:, None] + 0.5)
    pixel = np.arange(length) - start[:, None, None] + 0.5
    weights = np.maximum(0, 1 - np.abs(pixel - centre) / np.maximum(scale, 1.0))
    weights = np.where((pixel > 0) & (pixel < side[:, None, None]), weights, 0.0)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def _reduced(photo: Tensor, size: int, short: int, longest: float) -> Tensor:
    """A photograph with its shorter side at most `short` and its longer at most `longest` times its shorter."""
    height, width = photo.shape[1:]
    low = min(height, width)
    if low < size:
        raise DataError(
            f"A photograph is {width} x {height} pixels and the samples {size}; expected larger photographs. "
            f"Pass min_size={size} to PhotoFolder, or use a smaller size."
        )
    most = int(longest * low)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    photo = photo[:, top : top + most, left : left + most]
    if low <= short:
        return photo.contiguous()
    target = [round(length * short / low) for length in photo.shape[1:]]
    resized = F.interpolate(photo[None].float(), target, mode="bilinear", antialias=True, align_corners=False)[0]
    return resized.round().clamp(0, 255).to(torch.uint8)


def _draw_colors(rng: np.random.Generator, batch: int, channels: int) -> Sequence[NDArray[np.generic]]:
    order = rng.permuted(np.tile(np.arange(channels), (batch, 1)), axis=1)
    gamma = np.exp(rng.uniform(-0.4, 0.4, batch)).astype(np.float32)
    contrast = rng.uniform(0.7, 1, (batch, channels)).astype(np.float32)
    return order, gamma, contrast, rng.random((batch, channels)).astype(np.float32)


def _recolored(image: Tensor, order: Tensor, gamma: Tensor, contrast: Tensor, place: Tensor) -> Tensor:
    """What `TrainingSamples` does with recolor=True, for a batch."""
    image = image.gather(1, order[:, :, None, None].expand_as(image))
    contrast, brightness = contrast[:, :, None, None], (place * (1 - contrast))[:, :, None, None]
    return image ** gamma[:, None, None, None] * contrast + brightness
