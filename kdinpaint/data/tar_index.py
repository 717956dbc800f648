"""Where the images lie in a tar file, found once and kept in a file beside it."""

import logging
import os
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdinpaint._core.errors import DataError, OutputError
from kdinpaint._core.files import atomic_path
from kdinpaint.data.images import is_image_name

__all__ = ["TarIndex", "cache_of", "tar_index"]

_VERSION = 1
_SETTLED = 2_000_000_000  # nanoseconds: some file systems note times of change in steps of two seconds


class TarIndex(NamedTuple):
    """Images of a tar file.

    Attributes:
        names: (n,), UTF-8, without a leading "./".
        spans: (n, 2), int64: where the bytes of each begin, and how many they are.
    """

    names: NDArray[np.bytes_]
    spans: NDArray[np.int64]


def cache_of(shard: Path) -> Path:
    """Where the index of a tar file is kept."""
    return shard.with_name(f".{shard.name}.index.npz")


def tar_index(shard: Path) -> TarIndex:
    """The images of an uncompressed tar file.

    All headers are read the first time; then the index is kept beside the file, if that can be written, and serves
    as long as size and time of change of the file stay what they were.

    Raises:
        DataError: The file is missing, compressed, truncated or no tar file.
    """
    try:
        stamp = _stamp(shard)
        kept = _load(cache_of(shard), stamp)
        if kept is not None:
            return kept
        index = _read_headers(shard)
        if _stamp(shard) == stamp and time.time_ns() - shard.stat().st_mtime_ns > _SETTLED:
            _save(cache_of(shard), stamp, index)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{shard} cannot be read as a tar file ({error}); expected a complete, uncompressed one. "
            f"Unpack what is compressed, and fetch again what is truncated."
        ) from error
    return index


def _stamp(shard: Path) -> list[int]:
    found = os.stat(shard)
    return [_VERSION, found.st_size, found.st_mtime_ns]


def _load(path: Path, stamp: list[int]) -> TarIndex | None:
    """A kept index; None if there is none, or it is damaged or of another state of the tar file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if content["stamp"].tolist() != stamp:
                return None
            index = TarIndex(content["names"], content["spans"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    sound = index.names.dtype.kind == "S" and index.spans.shape == (len(index.names), 2)
    return index if sound else None


def _save(path: Path, stamp: list[int], index: TarIndex) -> None:
    try:
        with atomic_path(path) as temporary:
            np.savez(temporary, stamp=np.array(stamp, dtype=np.int64), names=index.names, spans=index.spans)
    except OutputError as error:  # a data set that must not be written to: the next start reads the headers again
        logging.getLogger("kdinpaint").info("no index is kept: %s", error)


def _read_headers(shard: Path) -> TarIndex:
    names: list[bytes] = []
    spans: list[tuple[int, int]] = []
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if member.isfile() and is_image_name(PurePosixPath(member.name).name):
                names.append(member.name.removeprefix("./").encode("utf-8"))
                spans.append((member.offset_data, member.size))
            tar.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
    if spans and shard.stat().st_size < sum(spans[-1]):
        raise tarfile.ReadError("its last image is cut off")
    return TarIndex(np.array(names, dtype=np.bytes_), np.array(spans, dtype=np.int64).reshape(-1, 2))
