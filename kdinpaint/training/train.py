"""From a folder of photos to a trained, measured inpainter."""

from pathlib import Path
from typing import Any, cast

import torch

from kdinpaint._core.errors import ConfigError, DataError, WeightsError
from kdinpaint.data import common_folder, list_images
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model, load_model
from kdinpaint.training.config import TrainConfig
from kdinpaint.training.figures import write_contact_sheet
from kdinpaint.training.run import Run, config_dict
from kdinpaint.training.watch import Watch

__all__ = ["split_photos", "teacher_name", "train"]


def teacher_name(student: str) -> str:
    """The autoencoder with the widths of a named student.

    Raises:
        ConfigError: Not the name of a student.
    """
    if not student.startswith("kdinpaint_"):
        raise ConfigError(f"{student!r} is not a student; expected a name such as kdinpaint_small.")
    return "autoencoder_" + student.removeprefix("kdinpaint_").removesuffix("_plain")


def train(config: TrainConfig) -> dict[str, Any]:
    """Train a teacher and a student, evaluate the student, and write everything to the run folder.

    The folder ends up with config.json, manifest.json, metrics.json, contact_sheet.png, tensorboard/, and
    for each stage its checkpoint and weights. Interrupted, the same call goes on where it stopped.

    Args:
        config: Everything.

    Returns:
        What metrics.json holds.

    Raises:
        KDInpaintError: See the errors of `Run` and `Stage`.
        KeyboardInterrupt: After Ctrl-C, with everything on disk; after SIGTERM or SIGUSR1 it is a `Preempted`.
    """
    if config.evaluation.photos is None:
        photos, held_out = split_photos(config.photos, every=20)
    else:
        photos, held_out = list_images(config.photos), list_images(config.evaluation.photos)
    run = Run(
        config.out,
        config=config_dict(config),
        data=config.data,
        runtime=config.runtime,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        photos=photos,
        held_out=held_out,
    )
    manifest = run.manifest(config.evaluation.per_bin)
    if config.evaluation.every:
        pairs = manifest.pairs(common_folder(held_out), channels=config.data.channels)
        run.watch = Watch(pairs, config.evaluation.every)
    torch.manual_seed(config.seed)
    teacher = _teacher(config, run)
    filler = {} if config.student.filler == "model" else {"filler": config.student.filler}
    student = cast(InpaintingNet, create_model(config.model, in_channels=config.data.channels, **filler))
    student = run.train_student("student", student, teacher, config.student)
    results = run.evaluate({"student": student}, manifest)
    if run.accelerator.is_main_process:
        write_contact_sheet(
            config.out / "contact_sheet.png",
            {"student": student},
            manifest.pairs(common_folder(held_out), channels=config.data.channels),
        )
    run.accelerator.wait_for_everyone()
    return results


def _teacher(config: TrainConfig, run: Run) -> AutoEncoder | None:
    distill = config.student.distill
    if config.student.init == "scratch" and not distill.active:
        return None
    if config.teacher.weights is None:
        attention = {"attention": "fuse"} if distill.attention_transfer else {}
        net = create_model(teacher_name(config.model), in_channels=config.data.channels, **attention)
        return run.train_teacher(cast(AutoEncoder, net), config.teacher.optim)
    loaded = load_model(config.teacher.weights, device=run.accelerator.device)
    if not isinstance(loaded, AutoEncoder):
        raise WeightsError(f"{config.teacher.weights} is a {type(loaded).__name__}; expected an AutoEncoder.")
    return loaded


def split_photos(folder: Path, *, every: int) -> tuple[list[Path], list[Path]]:
    """Training and held-out photos of one folder: photo 0, `every`, 2 `every`, ... is held out.

    Raises:
        DataError: Fewer than two photos.
    """
    files = list_images(folder)
    held_out = files[::every]
    rest = [file for number, file in enumerate(files) if number % every]
    if not rest:
        raise DataError(
            f"{folder} holds a single photo; expected at least two, one of them for evaluation. Add photos."
        )
    return rest, held_out
