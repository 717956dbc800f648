"""`kdinpaint demo`: the whole method in some minutes on a CPU, on real photographs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro

from kdinpaint.cli.report import paired_difference, print_results
from kdinpaint.data import common_folder, demo_photos
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model
from kdinpaint.training.config import DataConfig, DistillConfig, OptimConfig, RuntimeConfig, StudentConfig
from kdinpaint.training.figures import write_contact_sheet, write_feature_figure
from kdinpaint.training.run import Run, config_dict
from kdinpaint.training.train import split_photos

__all__ = ["DemoConfig", "command", "run_demo"]

_SIZE, _BATCH = 64, 12


@dataclass(frozen=True)
class DemoConfig:
    """Train a teacher, a plain student and a distillation-guided one, compare them, and draw the results."""

    photos: Path | None = None
    """Folder of your own photos; those that ship inside scikit-image by default."""
    out: Path = Path("runs/demo")
    """Run folder. Interrupted, the same command goes on there."""
    teacher_steps: int = 800
    """Optimiser steps of the teacher."""
    student_steps: int = 1000
    """Optimiser steps of each student."""
    per_bin: int = 24
    """Evaluation pairs in each hole-ratio bin."""
    seed: int = 0


def command(config: Annotated[DemoConfig, tyro.conf.arg(name="")]) -> None:
    """Train, compare and draw: the whole method in some minutes on a CPU."""
    results = run_demo(config)
    print_results(results)
    mean, error = paired_difference(results, "distilled", "plain", "psnr")
    print(
        f"\ndistilled - plain: {mean:+.2f} dB PSNR (standard error over the pairs {error:.2f}; one seed, and a few "
        f"minutes of training: differences of some tenths of a dB can be chance)"
    )
    for name, gap in results["relative_hole_gap"].items():
        levels = ", ".join(f"{value:.2f}" for value in gap)
        print(f"distance to the teacher inside the hole, {name}: {levels} (levels shallow to deep)")
    print(f"\nPictures: {config.out / 'contact_sheet.png'}, {config.out / 'features.png'}")
    print(f"Curves:   tensorboard --logdir {config.out / 'tensorboard'}")
    print(f"Use it:   kdinpaint inpaint IMAGE MASK -o OUT.png --weights {config.out / 'distilled'}")


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Do the work; returns what metrics.json holds."""
    photos, held_out = _photos(config)
    print(
        f"A teacher, a plain and a distilled student on {len(photos)} photographs, measured on {len(held_out)} others: "
        f"about six minutes on two cores. Ctrl-C is safe: the same command goes on."
    )
    run = Run(
        config.out,
        config={"demo": config_dict(config)},
        data=DataConfig(size=_SIZE, min_window=0.2, recolor=True),
        runtime=RuntimeConfig(device="cpu", checkpoint_every=100),
        seed=config.seed,
        mixed_precision="no",
        photos=photos,
        held_out=held_out,
    )
    manifest = run.manifest(config.per_bin)
    torch.manual_seed(config.seed)
    optim = OptimConfig(batch=_BATCH, lr=1e-3, schedule="cosine")
    teacher = run.train_teacher(
        cast(AutoEncoder, create_model("autoencoder_tiny")), replace(optim, steps=config.teacher_steps)
    )
    students = _students(config.seed)
    settings = StudentConfig(optim=replace(optim, steps=config.student_steps))
    plain = replace(settings, distill=DistillConfig(cross=0.0, self_distill=0.0))
    trained = {
        "plain": run.train_student("plain", students["plain"], teacher, plain),
        "distilled": run.train_student("distilled", students["distilled"], teacher, settings),
    }
    pairs = manifest.pairs(common_folder(held_out))
    write_contact_sheet(config.out / "contact_sheet.png", trained, pairs)
    gaps = write_feature_figure(config.out / "features.png", teacher.encode, trained, pairs)
    return run.evaluate(trained, manifest, extra={"relative_hole_gap": gaps})


def _photos(config: DemoConfig) -> tuple[Sequence[Path], Sequence[Path]]:
    if config.photos is None:
        bundled = demo_photos()
        return bundled.train, bundled.held_out
    return split_photos(config.photos, every=5)


def _students(seed: int) -> dict[str, InpaintingNet]:
    """Two students that start from the same weights wherever both have them."""
    torch.manual_seed(seed)
    distilled = cast(InpaintingNet, create_model("kdinpaint_tiny"))
    plain = cast(InpaintingNet, create_model("kdinpaint_tiny_plain"))
    state = distilled.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return {"plain": plain, "distilled": distilled}
