"""Looking at data before a long run: what is there, what is damaged, what to do about it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError, KDInpaintError, RangeError
from kdinpaint.data.images import decode_image
from kdinpaint.data.irregular_masks import IrregularMasks, Split
from kdinpaint.data.mask_files import MaskFolder
from kdinpaint.data.polarity_vote import vote_on_polarity
from kdinpaint.data.stored_photos import StoredPhotos
from kdinpaint.ops.masks import RATIO_BINS

__all__ = ["Finding", "MaskPolarity", "PhotoCheck", "check_masks", "check_photos", "guess_dataset"]

Level = Literal["ok", "warning", "error"]
MaskPolarity = Literal["auto", "hole", "known"]
_NVIDIA: dict[Split, str] = {"test": "NVIDIA test masks", "train": "NVIDIA training masks"}
_NAMED = 5
_BINS = [f"{100 * low:g}-{100 * high:g} %" for low, high in pairwise(RATIO_BINS)]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok"; "warning": training can start, and something is not as published or not as wanted; "error".
        text: What was found, and what to do.
    """

    level: Level
    text: str


@dataclass(frozen=True)
class PhotoCheck:
    """What `check_photos` found.

    Attributes:
        findings: In the order in which they were made.
        milliseconds: To read and decode one photograph, in one process; NaN if none could be.
    """

    findings: tuple[Finding, ...]
    milliseconds: float


def check_photos(
    photos: StoredPhotos, part: str, *, expected: int | None, min_side: int, look_at: int | None
) -> PhotoCheck:
    """Count photographs and decode some, evenly spaced.

    Args:
        photos: What to look at.
        part: What to call them.
        expected: How many there should be; None if nobody knows.
        min_side: Smallest side that is wanted, pixels.
        look_at: How many to decode; None for all.

    Raises:
        ConfigError: None at all are to be looked at.
    """
    if look_at is not None and look_at < 1:
        raise ConfigError(f"look_at is {look_at}; expected at least 1, or None for all.")
    findings = [_count(len(photos), part, expected)]
    chosen = _spaced(len(photos), look_at)
    broken: list[str] = []
    small: list[str] = []
    began = time.perf_counter()
    for index in chosen:
        place = photos.store.place(photos.number(index))
        try:
            data = photos.store.read(photos.number(index))
            sides = decode_image(data, name=place, channels=photos.channels, enough=photos.enough).shape[1:]
            if min(sides) < min_side:
                small.append(place)
        except ImageFileError:
            broken.append(place)
    milliseconds = 1000 * (time.perf_counter() - began) / len(chosen)
    looked = f"{len(chosen)} of {len(photos)}" if len(chosen) < len(photos) else f"all {len(chosen)}"
    if broken:
        level: Level = "error" if len(broken) == len(chosen) else "warning"
        advice = "Fetch or remove them; in training the next photo stands for a damaged one."
        findings.append(Finding(level, f"{part}: {len(broken)} of {looked} are damaged: {_some(broken)}. {advice}"))
    if small:
        level = "error" if len(small) + len(broken) == len(chosen) else "warning"
        advice = "Use a smaller --data.size, or take them out."
        text = f"{part}: {len(small)} of {looked} have a side below {min_side} pixels: {_some(small)}. {advice}"
        findings.append(Finding(level, text))
    if not broken and not small:
        findings.append(Finding("ok", f"{part}: {looked} decoded, none damaged, {milliseconds:.1f} ms each"))
    return PhotoCheck(tuple(findings), milliseconds if len(broken) < len(chosen) else float("nan"))


def check_masks(
    root: Path,
    part: str,
    *,
    polarity: MaskPolarity = "auto",
    open_masks: Callable[[MaskPolarity], MaskFolder],
    archive: Split | None = None,
    look_at: int | None,
) -> tuple[Finding, ...]:
    """Count mask files, find out what white means, and measure some, evenly spaced.

    Args:
        root: Their folder, for messages.
        part: What to call them.
        polarity: What white means.
        open_masks: Opens them, given the polarity.
        archive: Which NVIDIA archive they should be, of a known number of files.
        look_at: How many to measure; None for all.
    """
    try:
        masks, refused = _opened(root, open_masks, polarity)
    except KDInpaintError as error:
        return (Finding("error", f"{part}: {error}"),)
    how = "found in the files" if polarity == "auto" else "as you say"
    varied = isinstance(masks, IrregularMasks) and masks.augment
    what = "files" if archive is None else _NVIDIA[archive]
    findings = [
        _count(len(masks), part, archive and IrregularMasks.COUNTS[archive], what),
        Finding("ok", f"{part}: white means {masks.polarity}, {how}{'; varied at random' if varied else ''}"),
    ]
    chosen = _spaced(len(masks), look_at)
    ratios: list[float] = []
    for index in chosen:
        try:
            ratios.append(float(masks.read(index).double().mean()))
        except (ImageFileError, RangeError):
            refused.add(masks.paths[index])
    if refused:
        looked = len(refused.union(masks.paths[index] for index in chosen))
        bad = [str(path) for path in sorted(refused)]
        text = f"{part}: {len(bad)} of {looked} are damaged or not black and white: {_some(bad)}. "
        findings.append(Finding("error", text + "Fetch or remove them: a run stops at the first it meets."))
    if ratios:
        findings.append(_ratios(np.array(ratios), part, bins_matter=not varied))
        if archive == "test" and len(ratios) == IrregularMasks.COUNTS["test"]:
            findings.append(_published_bins(np.array(ratios), part))
    return tuple(findings)


def _opened(
    root: Path, open_masks: Callable[[MaskPolarity], MaskFolder], polarity: MaskPolarity
) -> tuple[MaskFolder, set[Path]]:
    """Masks, and files that could not vote on their polarity: here one bad file must not hide the rest."""
    try:
        return open_masks(polarity), set()
    except (ImageFileError, RangeError):
        vote = vote_on_polarity(root, open_masks("hole").paths)
        return open_masks(vote.polarity), set(vote.refused)


def _count(found: int, part: str, expected: int | None, what: str = "photos") -> Finding:
    if expected is None or found == expected:
        published = "" if expected is None else ", as published"
        return Finding("ok", f"{part}: {found:,} {what}{published}")
    advice = "Training can start; numbers cannot stand beside published ones."
    return Finding("warning", f"{part}: {found:,} {what}, {expected:,} published. {advice}")


def _counts(ratios: NDArray[np.float64], edges: Sequence[float]) -> list[int]:
    """How many ratios lie in every bin: above its lower edge, up to its upper one."""
    return [int(((ratios > low) & (ratios <= high)).sum()) for low, high in pairwise(edges)]


def _published_bins(ratios: NDArray[np.float64], part: str) -> Finding:
    """The test masks have as many of every bin, measured at their own size (Liu et al., ECCV 2018)."""
    found = _counts(ratios, RATIO_BINS)
    expected = len(ratios) // len(found)
    if set(found) == {expected}:
        return Finding("ok", f"{part}: {expected:,} of each bin, as published")
    odd = ", ".join(f"{count:,} of {name}" for name, count in zip(_BINS, found, strict=True) if count != expected)
    advice = "Fetch the archive's own files: scores by bin cannot stand beside published ones."
    return Finding("warning", f"{part}: {odd}, {expected:,} of each bin published. {advice}")


def _ratios(ratios: NDArray[np.float64], part: str, *, bins_matter: bool) -> Finding:
    edges = (0.0, *RATIO_BINS, 1.0)
    counts = _counts(ratios, edges)
    counts[0] += int((ratios == 0).sum())
    widest = max(counts)
    lines = [
        f"      {100 * low:3.0f}-{100 * high:3.0f} %  {count:6}  {'#' * round(40 * count / widest)}"
        for (low, high), count in zip(pairwise(edges), counts, strict=True)
    ]
    empty = [name for name, count in zip(_BINS, counts[1:-1], strict=True) if not count]
    text = f"{part}: hole ratios of {len(ratios)} files, measured\n" + "\n".join(lines)
    if len(empty) == len(RATIO_BINS) - 1:
        return Finding("error", f"{text}\n      no mask from 1 to 60 %: check the polarity, or take other masks")
    if empty and bins_matter:
        return Finding("warning", f"{text}\n      no mask of {', '.join(empty)}: these bins stay empty")
    return Finding("ok", text)


def _spaced(count: int, look_at: int | None) -> list[int]:
    wanted = count if look_at is None else min(look_at, count)
    return [place * count // wanted for place in range(wanted)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def guess_dataset(root: Path) -> str | None:
    """The name of the data set whose layout a folder has, or None for any folder of photos.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} does not exist or is no folder; expected the folder of a data set. Check the path.")
    names = {path.name for path in (*root.glob("*"), *root.glob("*/*"))}
    if any(name.startswith("list_eval_partition") or name == "img_align_celeba" for name in names):
        return "celeba"
    if names & {"paris_train_original", "paris_eval_gt", "paris_street_view"}:
        return "paris"
    top = {path.name for path in root.glob("*")}
    for resolution, suffix in (("256", ""), ("large", "-large")):
        places = {f"data_{resolution}", f"data_{resolution}_standard", f"train_{resolution}_places365standard.tar"}
        if top & places:
            return f"places2{suffix}"
        if top & {f"data_{resolution}_challenge", f"train_{resolution}_places365challenge.tar"}:
            return f"places2-challenge{suffix}"
    return "shards" if any(name.endswith(".tar") for name in top) else None
