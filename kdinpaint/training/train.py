"""From a folder of photos to a trained, measured inpainter."""

import os
from typing import Any, cast

import torch

from kdinpaint._core.errors import ConfigError, WeightsError
from kdinpaint.data import common_folder
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model, load_model
from kdinpaint.models.comparators import Comparator
from kdinpaint.training.config import OptimConfig, TrainConfig
from kdinpaint.training.figures import write_contact_sheet
from kdinpaint.training.interrupt import preemptible
from kdinpaint.training.phases import make_comparator, train_comparator
from kdinpaint.training.recipes import RECIPES, Recipe
from kdinpaint.training.run import Run, config_dict
from kdinpaint.training.sources import open_sources, split_photos
from kdinpaint.training.student import StudentObjective
from kdinpaint.training.watch import Watch

__all__ = ["description", "split_photos", "teacher_name", "train"]


def teacher_name(student: str) -> str:
    """The autoencoder with the widths of a named student.

    Raises:
        ConfigError: Not the name of a student.
    """
    if not student.startswith("kdinpaint_"):
        raise ConfigError(f"{student!r} is not a student; expected a name such as kdinpaint_small.")
    return "autoencoder_" + student.removeprefix("kdinpaint_").removesuffix("_plain")


@preemptible()
def train(config: TrainConfig) -> dict[str, Any]:
    """Train a teacher and a student, or a comparator; evaluate it, and write everything to the run folder.

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
    _check(config)
    sources = open_sources(
        config.photos, config.data, config.evaluation, in_memory=config.runtime.photos_in_memory, every=20
    )
    run = Run(
        config.out,
        config=description(config),
        data=config.data,
        runtime=config.runtime,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        photos=sources.photos,
        held_out=sources.held_out,
        masks=sources.masks,
        test_masks=sources.test_masks,
    )
    manifest = run.manifest(config.evaluation.per_bin, min_side=sources.min_side)
    pairs = manifest.pairs(common_folder(sources.held_out), channels=config.data.channels)
    if config.evaluation.every:
        run.watch = Watch(pairs, config.evaluation.every)
    torch.manual_seed(config.seed)
    model: InpaintingNet | Comparator
    if config.model in RECIPES:
        name, model = config.model, _comparator(config, run)
    else:
        teacher = _teacher(config, run)
        name, model = "student", run.train_student("student", _student(config), teacher, config.student)
    results = run.evaluate({name: model}, manifest)
    if run.accelerator.is_main_process:
        write_contact_sheet(config.out / "contact_sheet.png", {name: model}, pairs)
    run.accelerator.wait_for_everyone()
    return results


def _check(config: TrainConfig) -> None:
    """Raise what is wrong with the options of any stage: not hours later, in a folder that refuses their correction."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.model in RECIPES:
        OptimConfig(batch=_recipe(config).batch).check_batch(processes)
        return
    teacher_name(config.model)
    with torch.device("meta"):
        student, teacher = _student(config), _fresh_teacher(config)
        distilled = teacher if config.student.distill.active else None
        StudentObjective(student, distilled, loss=config.student.loss, distill=config.student.distill)
    config.student.optim.check_batch(processes)
    if _needs_teacher(config) and config.teacher.weights is None:
        config.teacher.optim.check_batch(processes)


def description(config: TrainConfig) -> dict[str, Any]:
    """What the run folder keeps: the part of the configuration that has to do with this model."""
    plain = config_dict(config)
    if config.model not in RECIPES:
        plain.pop("comparator")
        return plain
    rest = {name: value for name, value in plain.items() if name not in ("teacher", "student")}
    return {**rest, "recipe": _recipe(config).as_dict()}


def _recipe(config: TrainConfig) -> Recipe:
    budget = config.comparator
    return RECIPES[config.model].with_budget(steps=budget.steps, batch=budget.batch, ema_decay=budget.ema_decay)


def _comparator(config: TrainConfig, run: Run) -> Comparator:
    net = make_comparator(config.model, config.data.size, in_channels=config.data.channels)
    return train_comparator(run, config.model, net, _recipe(config), vgg=config.comparator.vgg)


def _student(config: TrainConfig) -> InpaintingNet:
    filler = {} if config.student.filler == "model" else {"filler": config.student.filler}
    return cast(InpaintingNet, create_model(config.model, in_channels=config.data.channels, **filler))


def _needs_teacher(config: TrainConfig) -> bool:
    return config.student.init != "scratch" or config.student.distill.active


def _fresh_teacher(config: TrainConfig) -> AutoEncoder:
    attention = {"attention": "fuse"} if config.student.distill.attention_transfer else {}
    net = create_model(teacher_name(config.model), in_channels=config.data.channels, **attention)
    return cast(AutoEncoder, net)


def _teacher(config: TrainConfig, run: Run) -> AutoEncoder | None:
    if not _needs_teacher(config):
        return None
    if config.teacher.weights is None:
        return run.train_teacher(_fresh_teacher(config), config.teacher.optim)
    loaded = load_model(config.teacher.weights, device=run.accelerator.device)
    if not isinstance(loaded, AutoEncoder):
        raise WeightsError(f"{config.teacher.weights} is a {type(loaded).__name__}; expected an AutoEncoder.")
    return loaded
