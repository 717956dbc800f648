"""Checkpoints: everything an exact continuation needs, one file, written atomically, read without pickle code."""

import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from kdinpaint._core.errors import CheckpointError
from kdinpaint._core.files import atomic_path

__all__ = ["load_checkpoint", "random_state", "restore_random_state", "save_checkpoint"]

_FORMAT = "kdinpaint-checkpoint-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk.

    Raises:
        OutputError: It cannot be written; the previous one is untouched.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": _FORMAT, **state}, temporary)
        except RuntimeError as error:  # how torch reports a failed write
            raise OSError(str(error).splitlines()[0]) from error


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
