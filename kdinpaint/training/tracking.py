"""Where the numbers of a stage go: TensorBoard and Weights & Biases, through Accelerate's trackers."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from kdinpaint._core.errors import OutputError
from kdinpaint._core.optional import require

__all__ = ["finish_trackers", "require_trackers", "start_trackers", "writing_logs"]


@contextlib.contextmanager
def writing_logs(accelerator: Accelerator) -> Iterator[None]:
    """Whatever speaks to the trackers does so within this block.

    Raises:
        OutputError: The log cannot be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write the log in {accelerator.logging_dir}: {error.strerror or error}. Checkpoints are "
            f"untouched; check permissions and free space, then repeat the command."
        ) from error


def require_trackers(names: Sequence[str]) -> None:
    """Make sure of the packages before anything is trained.

    Raises:
        MissingDependencyError: Weights & Biases is asked for and not installed.
    """
    if "wandb" in names:
        require("wandb", extra="wandb")


def start_trackers(
    accelerator: Accelerator,
    names: Sequence[str],
    *,
    stage: str,
    folder: Path,
    step: int,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Open the logs of a stage, or go on with those of an interrupted one.

    Args:
        accelerator: Logs to them from here on; the main process alone.
        names: "tensorboard", "wandb".
        stage: Its name.
        folder: Of the stage.
        step: Steps done. Points of later ones are from before an interruption and give way.
        settings: What Weights & Biases shows as the configuration; TensorBoard has no place for it.

    Raises:
        OutputError: The log cannot be written.
    """
    with writing_logs(accelerator):
        accelerator.trackers = _started(accelerator, names, stage, folder, step, dict(settings or {}))


def _started(
    accelerator: Accelerator, names: Sequence[str], stage: str, folder: Path, step: int, settings: dict[str, Any]
) -> list[GeneralTracker]:
    trackers: list[GeneralTracker] = []
    for name in names:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(stage, accelerator.logging_dir, purge_step=step + 1 if step else 0))
        else:
            # The same folder is the same run, however often it is interrupted.
            identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
            title = f"{folder.resolve().parent.name}/{stage}"
            trackers.append(WandBTracker("kdinpaint", name=title, id=identity, resume="allow", config=settings))
    for tracker in trackers:
        tracker.start()
    return trackers


def finish_trackers(accelerator: Accelerator) -> None:
    """Close them. The process group lives on, for the next stage.

    Raises:
        OutputError: The log cannot be written.
    """
    trackers, accelerator.trackers = accelerator.trackers, []
    with writing_logs(accelerator):
        for tracker in trackers:
            tracker.finish()
