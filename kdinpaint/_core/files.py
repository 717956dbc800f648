"""Writing files so that a crash, a full disk or Ctrl-C never leaves half of one."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from kdinpaint._core.errors import OutputError

__all__ = ["atomic_path", "clear_leftovers", "make_folder", "write_tensors", "write_text"]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` when the block succeeds.

    Missing parent folders are made. On any failure the old file stays as it was.

    Raises:
        OutputError: The file cannot be written (no permission, no space, a folder in its place).
    """
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Earlier files are untouched; "
            f"check permissions and free space, or choose another place."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_tensors(path: Path, content: object) -> None:
    """`torch.save` that fails as writing anything else does: with an OSError."""
    try:
        torch.save(content, path)
    except RuntimeError as error:  # how torch reports a failed write
        raise OSError(str(error).splitlines()[0]) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name last, too, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders; some network file systems sync none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(path: Path) -> None:
    """Remove what a process that was killed inside `atomic_path(path)` left beside `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}. Choose another place."
        ) from error
