"""Finding the parts of a data set among the layouts in which it is met."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from kdinpaint._core.errors import DataError
from kdinpaint.data.stores import FolderStore, ImageStore, TarStore, open_store

__all__ = ["by_base_name", "find_file", "find_place", "find_store"]


def find_place(root: Path, candidates: Sequence[str], what: str) -> Path:
    """The first of several paths below `root` that is there and not empty.

    Raises:
        DataError: None is.
    """
    if not root.is_dir():
        raise DataError(f"{root} does not exist or is no folder; expected the folder with {what}. Check the path.")
    for candidate in candidates:
        path = root / candidate
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            return path
    held = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise DataError(f"{root} holds {held}; expected {what} at one of: {', '.join(candidates)}.")


def find_file(root: Path, candidates: Sequence[str], what: str) -> Path:
    """As `find_place`, for a file.

    Raises:
        DataError: None is there.
    """
    return find_place(root, [name for name in candidates if (root / name).is_file()] or candidates, what)


def find_store(root: Path, candidates: Sequence[str], what: str) -> FolderStore | TarStore:
    """The images at the first of several paths below `root`: a folder, a folder of tar shards, or a tar file.

    Raises:
        DataError: None is there, or it holds no image.
    """
    return open_store(find_place(root, candidates, what))


def by_base_name(store: ImageStore) -> dict[str, int]:
    """The number of every image by the last part of its name."""
    return {PurePosixPath(store.name(index)).name: index for index in range(len(store))}
