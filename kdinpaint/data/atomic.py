"""Writing a file so that it is either the old one or the new one, never a part of it."""

import contextlib
import os
import uuid
from pathlib import Path

from kdinpaint._core.errors import OutputError

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` through a temporary file in the same folder.

    Args:
        path: Where to write; missing parent folders are created.
        data: The whole content.

    Raises:
        OutputError: The file cannot be written. A file that was there is still there, and nothing else is.
    """
    target = Path(path)
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"{target} cannot be written: {error.strerror or error}. Nothing was changed; check the free "
            f"space and the permissions of {target.parent}, or write somewhere else."
        ) from error
