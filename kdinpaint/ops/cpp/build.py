"""Compiles adaptive_conv.cpp for this processor, once, into the user's cache."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

__all__ = ["library", "missing"]

SOURCE = Path(__file__).with_name("adaptive_conv.cpp")
_HEADERS = sorted(SOURCE.parent.glob("*.h"))
SWITCH = "KDINPAINT_COMPILE"
# By what PyTorch finds the processor to be capable of: "native" would also do, but not for a cache that machines share.
_PROCESSOR = {
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}


def library() -> ctypes.CDLL:
    """The compiled functions.

    Raises:
        RuntimeError: They cannot be had here; `missing` tells why without an error.
    """
    found, reason = _load()
    if found is None:
        raise RuntimeError(reason)
    return found


def missing() -> str | None:
    """Why there are no compiled functions here, or None if there are; compiles them on the first call."""
    return _load()[1]


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get(SWITCH) == "0":
        return None, f"{SWITCH}=0 is set"
    if sys.platform != "linux":
        return None, "compiled adaptive convolution needs Linux"
    name = os.environ.get("CXX", "g++")
    compiler = shutil.which(name)
    if compiler is None:
        return None, f"there is no compiler {name}"
    errors = []
    for folder in (_cache(), None):
        try:
            return _compiled(compiler, folder), None
        except (OSError, subprocess.SubprocessError) as error:
            errors.append(_words(error))
    return None, f"{SOURCE.name} could not be compiled: {errors[-1]}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdinpaint"


def _compiled(compiler: str, folder: Path | None) -> ctypes.CDLL:
    """The library in a folder, compiled if it is not there; without a folder from a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return _compiled(compiler, Path(temporary))  # once loaded, its file may go
    options = ["-O3", *_PROCESSOR.get(torch.backends.cpu.get_cpu_capability(), []), "-fopenmp", "-shared", "-fPIC"]
    key = hashlib.sha256(b"".join(path.read_bytes() for path in (SOURCE, *_HEADERS)))
    key.update("\0".join([compiler, platform.machine(), *options]).encode())
    path = folder / f"adaptive_conv-{key.hexdigest()[:16]}.so"
    if path.is_file():
        with contextlib.suppress(OSError):  # cut off, or of another system
            return ctypes.CDLL(str(path))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        new = Path(temporary, path.name)
        command = [compiler, *options, str(SOURCE), "-o", str(new)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        new.replace(path)  # whole or not at all, whoever else compiles
    return ctypes.CDLL(str(path))


def _words(error: Exception) -> str:
    lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
