"""Checkpoints: everything an exact continuation needs, one file, written atomically, read without pickle code."""

import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from kdinpaint._core.errors import CheckpointError, KDInpaintWarning
from kdinpaint._core.files import atomic_path, write_tensors

__all__ = [
    "has_checkpoint",
    "load_checkpoint",
    "load_latest_checkpoint",
    "random_state",
    "remove_previous",
    "restore_random_state",
    "save_checkpoint",
]

_FORMAT = "kdinpaint-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays beside it, as `checkpoint.previous.pt`, until the next.

    Raises:
        OutputError: It cannot be written; the previous one is untouched.
    """
    with atomic_path(path) as temporary:
        write_tensors(temporary, {"format": _FORMAT, **state})
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        if path.exists():
            _keep(path)


def _keep(path: Path) -> None:
    """Give the checkpoint its second name, at no moment without one of the two."""
    previous, link = _previous(path), path.with_name(f".{path.name}.link")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        link.replace(previous)
    except OSError:  # a file system without hard links
        path.replace(previous)


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def has_checkpoint(path: Path) -> bool:
    """Whether there is a checkpoint, or the previous one at least."""
    return path.exists() or _previous(path).exists()


def remove_previous(path: Path) -> None:
    """Remove the previous checkpoint: the stage is done."""
    _previous(path).unlink(missing_ok=True)


def load_latest_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, or with a warning the previous one if it is damaged.

    Raises:
        CheckpointError: Neither can be read.
    """
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        previous = _previous(path)
        if not previous.exists():
            raise
        state = load_checkpoint(previous)
        reason = str(error).split(". ")[0] if path.exists() else f"{path} is missing"
        warnings.warn(
            f"{reason}. Training goes on from the previous checkpoint, {previous}, at step {state.get('step')}.",
            KDInpaintWarning,
            stacklevel=3,
        )
        return state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that `save_checkpoint` wrote. Only tensors and plain values are accepted.

    Raises:
        CheckpointError: The file is truncated, foreign, or holds anything else.
    """
    advice = f"Delete {path} to start this stage over; finished stages are kept."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds objects that a kdinpaint checkpoint never holds, or is damaged; nothing of it was "
            f"executed. {advice}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint ({error}). {advice}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version ({_FORMAT}). {advice}")
    return state


def random_state() -> dict[str, Any]:
    """The state of the random generators that training may draw from."""
    version, internal, gauss = random.getstate()
    return {
        "python": (version, list(internal), gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
