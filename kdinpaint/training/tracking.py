"""Where the numbers of a stage go: TensorBoard and Weights & Biases, through Accelerate's trackers."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from kdinpaint._core.optional import require

__all__ = ["finish_trackers", "require_trackers", "start_trackers"]


def require_trackers(names: Sequence[str]) -> None:
    """Make sure of the packages before anything is trained.

    Raises:
        MissingDependencyError: Weights & Biases is asked for and not installed.
    """
    if "wandb" in names:
        require("wandb", extra="wandb")


def start_trackers(accelerator: Accelerator, names: Sequence[str], *, stage: str, folder: Path, step: int) -> None:
    """Open the logs of a stage, or go on with those of an interrupted one.

    Args:
        accelerator: Logs to them from here on; the main process alone.
        names: "tensorboard", "wandb".
        stage: Its name.
        folder: Of the stage.
        step: From which on points will come; later ones are from before an interruption and give way.
    """
    trackers: list[GeneralTracker] = []
    for name in names:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(stage, accelerator.logging_dir, purge_step=step))
        else:
            # The same folder is the same run, however often it is interrupted.
            identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
            title = f"{folder.resolve().parent.name}/{stage}"
            trackers.append(WandBTracker("kdinpaint", name=title, id=identity, resume="allow"))
    for tracker in trackers:
        tracker.start()
    accelerator.trackers = trackers


def finish_trackers(accelerator: Accelerator) -> None:
    """Close them. The process group lives on, for the next stage."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []
