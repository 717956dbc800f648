"""What white means in mask files: they vote, folder by folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from kdinpaint._core.errors import DataError, ImageFileError, RangeError
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import read_image
from kdinpaint.ops.masks import Polarity

__all__ = ["PolarityVote", "read_white", "vote_on_polarity"]

_SAMPLE = 200
_QUORUM = 3
_AGREED = 0.8


@dataclass(frozen=True)
class PolarityVote:
    """What a vote came to.

    Attributes:
        polarity: What white means.
        agreed: How many masks say so.
        count: How many were read.
        median: Median share of white, in [0, 1].
        refused: Files that could not be read, and why: damaged, or not black and white.
    """

    polarity: Polarity
    agreed: int
    count: int
    median: float
    refused: Mapping[Path, ImageFileError | RangeError]


def read_white(path: Path) -> Tensor:
    """Where a mask file is white: (1, H, W), bool.

    Raises:
        RangeError: More than 5 % of the pixels are neither black nor white.
        ImageFileError: The file is damaged.
    """
    grey = read_image(path, channels=1)
    between = float(((grey >= 32) & (grey <= 223)).float().mean())
    if between > 0.05:
        raise RangeError(
            f"{path} is not binary: {between:.0%} of its pixels are neither black nor white (32 to 223); "
            f"expected at most 5 %. Threshold the file, or take it out of the mask folder."
        )
    return grey >= 128


def vote_on_polarity(root: PathLike, paths: Sequence[Path]) -> PolarityVote:
    """Let masks say what white means.

    Less than 45 % white says that white is hole, more than 65 % that it is known, since holes are rarely larger than
    half of the image. Up to 200 files vote, evenly spaced over each folder, at least three of each. 80 % of the votes
    must agree, and so must the folders in which at least three masks have a vote.

    Args:
        root: Where the files lie, for messages.
        paths: The files.

    Raises:
        DataError: It cannot be told, or the folders disagree.
        ImageFileError: No file can be read; the first is damaged.
        RangeError: No file can be read; the first is not binary.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    shares: list[float] = []
    refused: dict[Path, ImageFileError | RangeError] = {}
    says: dict[Path, dict[str, int]] = {}
    for folder, files in folders.items():
        votes = says[folder] = {"hole": 0, "known": 0}
        for path in _spaced(files, max(_QUORUM, _SAMPLE // len(folders))):
            try:
                share = float(read_white(path).float().mean())
            except (ImageFileError, RangeError) as error:
                refused[path] = error
                continue
            shares.append(share)
            votes["hole"] += share < 0.45
            votes["known"] += share > 0.65
    if not shares:
        raise next(iter(refused.values()))
    _check_folders(root, says)
    total = {name: sum(votes[name] for votes in says.values()) for name in ("hole", "known")}
    winner = _winner(total)
    if winner is None:
        low, middle, high = torch.quantile(torch.tensor(shares), torch.tensor([0.0, 0.5, 1.0])).tolist()
        raise DataError(
            f"{root}: it cannot be told whether white means hole or known. White covers {low:.0%} to "
            f"{high:.0%} of the {len(shares)} masks looked at (median {middle:.0%}); {total['hole']} of them "
            f"say hole, {total['known']} known. Say what white means: pass polarity='hole' or 'known'."
        )
    return PolarityVote(winner, total[winner], len(shares), float(np.median(shares)), refused)


def _check_folders(root: PathLike, says: dict[Path, dict[str, int]]) -> None:
    found: dict[Polarity, str] = {}
    for folder, votes in says.items():
        winner = _winner(votes)
        if winner is not None and votes[winner] >= _QUORUM:
            found.setdefault(winner, f"{folder} ({votes[winner]} of {sum(votes.values())} votes)")
    if len(found) > 1:
        raise DataError(
            f"{root}: its folders disagree about white. It means hole in {found['hole']}, known in {found['known']}. "
            f"Pass one of these folders; or, if white means the same in all, polarity='hole' or 'known'."
        )


def _winner(votes: dict[str, int]) -> Polarity | None:
    name = max(votes, key=lambda name: votes[name])
    agreed = votes[name] > 0 and votes[name] >= _AGREED * sum(votes.values())
    return cast(Polarity, name) if agreed else None


def _spaced(files: Sequence[Path], wanted: int) -> list[Path]:
    places = np.linspace(0, len(files) - 1, min(len(files), wanted)).round().astype(int)
    return [files[place] for place in places.tolist()]
