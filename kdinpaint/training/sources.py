"""What a configuration trains on and is measured on: photos and masks, opened."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import DataError, KDInpaintWarning
from kdinpaint.data import (
    CelebA,
    IrregularMasks,
    MaskFolder,
    ParisStreetView,
    Places2,
    StoredPhotos,
    list_images,
    open_store,
)
from kdinpaint.data.irregular_masks import find_archive
from kdinpaint.ops import RATIO_BINS
from kdinpaint.training.config import DataConfig, DatasetName, EvaluationConfig

__all__ = ["DATASETS", "Sources", "open_dataset", "open_masks", "open_sources", "split_photos"]

DATASETS: tuple[str, ...] = get_args(DatasetName)

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Sources:
    """Opened data.

    Attributes:
        photos: To train on.
        held_out: Files to evaluate on.
        masks: To train with; None for generated ones.
        test_masks: To evaluate with; None for generated ones.
        min_side: Smallest side of a held-out photo; smaller than the evaluation where it is enlarged.
    """

    photos: StoredPhotos | list[Path]
    held_out: list[Path]
    masks: IrregularMasks | None
    test_masks: IrregularMasks | None
    min_side: int


def open_dataset(root: Path, data: DataConfig, part: Part, *, in_memory: bool = False) -> StoredPhotos:
    """One part of the data set that a configuration names; of Places2 the validation images are for testing.

    Raises:
        DataError: The layout is another one.
        ConfigError: The configuration names no data set that is known.
    """
    name = data.dataset or ""
    check_choice(name, DATASETS, "dataset")
    keep: Literal["disk", "memory"] = "memory" if in_memory and part == "train" else "disk"
    if name == "celeba":
        return CelebA(root, part, size=data.size, channels=data.channels, on_error=data.on_error, keep=keep)
    if name == "paris":
        return ParisStreetView(root, part, channels=data.channels, on_error=data.on_error, keep=keep)
    if name == "shards":
        if part == "test":
            raise DataError(f"{root}: evaluation needs image files. Pass their folder as --evaluation.photos.")
        store = open_store(root)
        return StoredPhotos(store, channels=data.channels, enough=2 * data.size, on_error=data.on_error, keep=keep)
    return Places2(
        root,
        "train" if part == "train" else "val",
        variant="challenge" if "challenge" in name else "standard",
        resolution="large" if name.endswith("large") else "256",
        enough=2 * data.size,
        channels=data.channels,
        on_error=data.on_error,
        keep=keep,
    )


def open_masks(
    root: Path,
    part: Part = "train",
    *,
    polarity: Literal["auto", "hole", "known"] = "auto",
    ratio: tuple[float, float] = (RATIO_BINS[0], RATIO_BINS[-1]),
) -> IrregularMasks:
    """Mask files to train with, or to test with.

    Where the NVIDIA archives lie, known by their folders, those of the part are taken. Their training masks are varied
    at random in training, and only there.

    Raises:
        DataError: There is no mask, or what white means cannot be told.
        RangeError: A file that was looked at is not binary.
        ImageFileError: A file that was looked at is damaged.
    """
    archive = find_archive(root, part)
    if archive is None:  # nobody said that white should mean what it means in the published ones
        return IrregularMasks(root, polarity=MaskFolder(root, polarity=polarity).polarity, ratio=ratio)
    varied = part == "train" and archive == "train"
    return IrregularMasks(root, split=archive, polarity=polarity, ratio=ratio, augment=varied)


def open_sources(
    photos: Path, data: DataConfig, evaluation: EvaluationConfig, *, in_memory: bool, every: int = 20
) -> Sources:
    """Open what a configuration names.

    Of a data set with more held-out photos than pairs are asked for, as many as pairs are taken, evenly spaced. Of a
    folder of photos, those that are held out are left out of training, with a warning.

    Raises:
        DataError: A layout is another one, or there are too few photos.
        ConfigError: See `open_dataset`.
    """
    masks = None if data.masks is None else open_masks(data.masks, polarity=data.polarity, ratio=data.hole_ratio)
    test_masks = (
        None if evaluation.masks is None else open_masks(evaluation.masks, "test", polarity=evaluation.polarity)
    )
    min_side = data.size
    chosen: StoredPhotos | list[Path]
    if data.dataset is None:
        if evaluation.photos is None:
            chosen, held_out = split_photos(photos, every=every)
        else:
            held_out = list_images(evaluation.photos)
            chosen = _without(list_images(photos), held_out, photos)
    else:
        chosen = open_dataset(photos, data, "train", in_memory=in_memory)
        min_side = min(data.size, 178) if data.dataset == "celeba" else data.size
        if evaluation.photos is None:
            held_out = _spaced(open_dataset(photos, data, "test").files(), 6 * evaluation.per_bin)
        else:
            held_out = list_images(evaluation.photos)
    return Sources(chosen, held_out, masks, test_masks, min_side)


def split_photos(folder: Path, *, every: int) -> tuple[list[Path], list[Path]]:
    """Training and held-out photos of one folder: photo 0, `every`, 2 `every`, ... is held out.

    Raises:
        DataError: Fewer than two photos.
    """
    files = list_images(folder)
    held_out = files[::every]
    rest = [file for number, file in enumerate(files) if number % every]
    if not rest:
        raise DataError(
            f"{folder} holds a single photo; expected at least two, one of them for evaluation. Add photos."
        )
    return rest, held_out


def _without(files: list[Path], held_out: Sequence[Path], folder: Path) -> list[Path]:
    """Files to train on: those held out, which may lie in the same folder, are not."""
    measured = {file.resolve() for file in held_out}
    rest = [file for file in files if file.resolve() not in measured]
    if not rest:
        raise DataError(f"{folder} holds no photo that is not held out for evaluation. Add photos, or hold out fewer.")
    if len(rest) < len(files):
        warnings.warn(
            f"{len(files) - len(rest)} photos of {folder} are held out for evaluation; training leaves them out.",
            KDInpaintWarning,
            stacklevel=3,
        )
    return rest


def _spaced(files: Sequence[Path], count: int) -> list[Path]:
    return [files[place * len(files) // min(count, len(files))] for place in range(min(count, len(files)))]
