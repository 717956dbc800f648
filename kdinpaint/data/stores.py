"""Where encoded images lie: in a folder, in tar shards, or in memory. A store gives bytes by number."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdinpaint._core.errors import DataError, ImageFileError
from kdinpaint._core.images import PathLike
from kdinpaint.data.images import is_image_name
from kdinpaint.data.tar_index import TarIndex, tar_index

__all__ = ["FolderStore", "ImageStore", "MemoryStore", "TarStore", "open_store"]


class ImageStore(Protocol):
    """Encoded images by number, each with a name relative to the root of the store."""

    def __len__(self) -> int: ...

    def name(self, index: int, /) -> str:
        """The path of an image inside the store, with forward slashes."""

    def place(self, index: int, /) -> str:
        """The same for error messages: where on this machine."""

    def read(self, index: int, /) -> bytes:
        """The encoded image. Raises ImageFileError."""


class _Names:
    """Millions of names as one array: lists of str would be copied into every worker process, page by page."""

    def __init__(self, names: Iterable[str] | NDArray[np.bytes_]) -> None:
        if not isinstance(names, np.ndarray):
            names = np.array([name.encode("utf-8") for name in names], dtype=np.bytes_)
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return bytes(self._names[index]).decode("utf-8")


class FolderStore(_Names):
    """Images below a folder.

    Args:
        root: The folder.
        names: Paths relative to it, in order; by default everything below that looks like an image, sorted.

    Raises:
        DataError: `root` is no folder, or holds no image.
    """

    def __init__(self, root: PathLike, names: Iterable[str] | None = None) -> None:
        self.root = Path(root)
        super().__init__(_walk(self.root) if names is None else names)
        if not len(self):
            raise DataError(f"{self.root} holds no image; expected image files below it. Check the path.")

    def path(self, index: int) -> Path:
        """The file."""
        return self.root / self.name(index)

    def place(self, index: int) -> str:
        """See `ImageStore`."""
        return str(self.path(index))

    def read(self, index: int) -> bytes:
        """See `ImageStore`."""
        try:
            return self.path(index).read_bytes()
        except OSError as error:
            raise ImageFileError(f"{self.path(index)} cannot be read: {error.strerror or error}.") from error


class TarStore(_Names):
    """Images inside uncompressed tar files, read from their place in them: nothing is unpacked.

    Other members, such as labels beside the images of a webdataset, are passed over. Every tar file is read
    through once, header by header, which takes minutes for millions. What was found is kept beside it, as
    ``.NAME.tar.index.npz``, where that can be written, and serves until size or time of change of the tar file differ.

    Args:
        shards: The tar files, in order.

    Raises:
        DataError: A shard is missing, compressed, truncated or no tar file, or none holds an image.
    """

    def __init__(self, shards: Sequence[PathLike]) -> None:
        self.shards = [Path(shard) for shard in shards]
        names, self._spans = _index(self.shards)
        super().__init__(names)
        self._open: dict[int, int] = {}
        if not len(self):
            raise DataError(f"{', '.join(map(str, self.shards[:3])) or 'The list of shards'} holds no image.")

    def place(self, index: int) -> str:
        """See `ImageStore`."""
        return f"{self.shards[self._spans[index, 0]]}:{self.name(index)}"

    def read(self, index: int) -> bytes:
        """See `ImageStore`."""
        shard, offset, size = (int(value) for value in self._spans[index])
        try:
            if shard not in self._open:
                self._open[shard] = os.open(self.shards[shard], os.O_RDONLY)
            data = os.pread(self._open[shard], size, offset)
        except OSError as error:
            raise ImageFileError(f"{self.place(index)} cannot be read: {error.strerror or error}.") from error
        if len(data) != size:
            raise ImageFileError(f"{self.place(index)} is truncated: {len(data)} of {size} bytes. Restore the shard.")
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)


class MemoryStore(_Names):
    """A copy of some images of a store in memory, still encoded: Places2 at 256 takes about 25 GB, CelebA 1.4 GB.

    Every process that makes one has a copy of its own: eight training processes on a machine hold eight. The workers
    of a data loader that are forked from a process share its copy.

    Args:
        store: Where to copy from.
        indices: Which images; all by default.

    Raises:
        ImageFileError: An image cannot be read.
    """

    def __init__(self, store: ImageStore, indices: Iterable[int] | None = None) -> None:
        chosen = list(range(len(store)) if indices is None else indices)
        super().__init__(store.name(index) for index in chosen)
        data = [store.read(index) for index in chosen]
        # One buffer: objects by the million would be touched, and so copied, by every worker process.
        self._ends = np.cumsum([len(part) for part in data], dtype=np.int64)
        self._data = np.frombuffer(b"".join(data), dtype=np.uint8)

    def place(self, index: int) -> str:
        """See `ImageStore`."""
        return f"{self.name(index)} (in memory)"

    def read(self, index: int) -> bytes:
        """See `ImageStore`."""
        start = int(self._ends[index - 1]) if index else 0
        return self._data[start : int(self._ends[index])].tobytes()


def open_store(root: PathLike) -> FolderStore | TarStore:
    """The store at a path: a tar file, a folder of tar shards, or a folder of images.

    Args:
        root: The path. A folder that directly holds files named *.tar is read as shards, in the order of their names.

    Raises:
        DataError: There is nothing, or no image.
    """
    path = Path(root)
    if path.is_file():
        return TarStore([path])
    shards = sorted(path.glob("*.tar")) if path.is_dir() else []
    return TarStore(shards) if shards else FolderStore(path)


def _walk(root: Path) -> list[str]:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}; expected a folder of images. Check the path.")
    found = []
    for place, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        base = os.path.relpath(place, root).replace(os.sep, "/")
        prefix = "" if base == "." else base + "/"
        found += [prefix + name for name in files if is_image_name(name)]
    return sorted(found)


def _index(shards: Sequence[Path]) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Names, and for each its shard, where it begins and how long it is."""
    found = [tar_index(shard) for shard in shards] or [TarIndex(np.array([], np.bytes_), np.empty((0, 2), np.int64))]
    numbers = np.repeat(np.arange(len(found)), [len(index.names) for index in found])
    spans = np.concatenate([index.spans for index in found])
    return np.concatenate([index.names for index in found]), np.column_stack([numbers, spans])
