"""Choosing the pairs of a manifest: as many in every bin, spread evenly over the photographs."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from kdinpaint._core.errors import ConfigError, DataError, KDInpaintWarning
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import read_image
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.data.mask_generator import MaskGenerator
from kdinpaint.data.pair_entry import PairEntry
from kdinpaint.data.photos import PhotoFolder
from kdinpaint.data.windows import centre_window, draw_window

__all__ = ["build_entries"]

_TRIES = 100


def build_entries(
    photos: PathLike | Sequence[PathLike],
    *,
    size: int,
    masks: MaskGenerator | MaskFolder,
    per_bin: int | None,
    pairs: int | None,
    bins: Sequence[float],
    seed: int,
    windows_per_photo: int,
    min_side: int | None = None,
) -> tuple[PairEntry, ...]:
    """The entries of `PairManifest.build`, which documents the arguments and errors."""
    _check(size, per_bin, pairs, bins, seed, windows_per_photo)
    rng = np.random.default_rng([seed, 0])
    files = PhotoFolder(photos, min_size=size if min_side is None else min_side, cache_bytes=0).paths
    root = Path(photos) if isinstance(photos, str | os.PathLike) else common_folder([Path(p) for p in photos])
    chosen = _choose_masks(masks, size, per_bin, pairs, bins, rng)

    turns = rng.permutation(len(files) * windows_per_photo).tolist()
    known: dict[int, tuple[str, int, int]] = {}
    entries = []
    for place, mask in enumerate(chosen):
        photo, window = divmod(turns[place % len(turns)], windows_per_photo)
        if photo not in known:
            height, width = read_image(files[photo]).shape[1:]
            known[photo] = hashlib.sha256(files[photo].read_bytes()).hexdigest(), height, width
        digest, height, width = known[photo]
        box = centre_window(height, width)
        if window > 0:
            window_rng = np.random.default_rng([seed, 1, photo, window])
            box = draw_window(height, width, size=size, smallest=0.5, rng=window_rng)
        name = Path(os.path.relpath(files[photo], root)).as_posix()
        entries.append(PairEntry.make(name, digest, box, mask))
    return tuple(entries)


def _check(
    size: int,
    per_bin: int | None,
    pairs: int | None,
    bins: Sequence[float],
    seed: int,
    windows_per_photo: int,
) -> None:
    if (per_bin is None) == (pairs is None):
        raise ConfigError(f"per_bin={per_bin} and pairs={pairs}; expected one of them.")
    counts = {"size": size, "windows_per_photo": windows_per_photo, "per_bin": per_bin, "pairs": pairs}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; expected at least 1.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; expected a number that is not negative.")
    rising = len(bins) > 1 and all(low < high for low, high in pairwise(bins))
    if not rising or bins[0] < 0 or bins[-1] > 1:
        raise ConfigError(f"bins are {tuple(bins)}; expected at least two edges in [0, 1], rising.")


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all files: what the paths of a manifest built from a list are relative to."""
    return Path(os.path.commonpath([os.path.abspath(path.parent) for path in files]))


def _choose_masks(
    masks: MaskGenerator | MaskFolder,
    size: int,
    per_bin: int | None,
    pairs: int | None,
    bins: Sequence[float],
    rng: np.random.Generator,
) -> Iterator[Tensor]:
    ranges = list(pairwise(bins))
    if isinstance(masks, MaskGenerator):
        each = _per_bin(per_bin, pairs, len(ranges))
        for low, high in ranges:
            for _ in range(each):
                yield _draw_within(masks, size, low, high, rng)
        return
    ratios = np.array([float(masks.read(index, (size, size)).double().mean()) for index in range(len(masks))])
    members = [np.flatnonzero((ratios > low) & (ratios <= high)) for low, high in ranges]
    empty = [f"({low:g}, {high:g}]" for (low, high), found in zip(ranges, members, strict=True) if not len(found)]
    if len(empty) == len(ranges):
        raise DataError(
            f"None of the {len(masks)} masks has a hole ratio in ({bins[0]:g}, {bins[-1]:g}] at {size} "
            f"pixels: they range from {ratios.min():.3f} to {ratios.max():.3f}. Check their polarity, or "
            f"pass other bins."
        )
    if empty:
        warnings.warn(
            f"No mask has a hole ratio in {', '.join(empty)}: these bins are left out.",
            KDInpaintWarning,
            stacklevel=4,
        )
    each = _per_bin(per_bin, pairs, len(ranges) - len(empty))
    for found in members:
        for index in np.resize(rng.permutation(found), each if len(found) else 0).tolist():
            yield masks.read(index, (size, size))


def _per_bin(per_bin: int | None, pairs: int | None, count: int) -> int:
    if per_bin is not None:
        return per_bin
    each, rest = divmod(pairs or 0, count)
    if rest or not each:
        raise ConfigError(f"pairs is {pairs} for {count} bins; expected a multiple of {count}.")
    return each


def _draw_within(masks: MaskGenerator, size: int, low: float, high: float, rng: np.random.Generator) -> Tensor:
    for _ in range(_TRIES):
        mask = masks.draw((size, size), rng, float(rng.uniform(low, high)))
        if low < float(mask.double().mean()) <= high:
            return mask
    raise DataError(
        f"No mask with a hole ratio in ({low:g}, {high:g}] at {size} pixels after {_TRIES} tries; "
        f"expected bins that are wider than a few pixels."
    )
