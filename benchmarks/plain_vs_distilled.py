"""Plain against distilled, initialised from the teacher and from scratch, over paired seeds, on a CPU.

python benchmarks/plain_vs_distilled.py                                       the photos inside scikit-image
python benchmarks/plain_vs_distilled.py --photos DIR --held-out DIR --name N  your own

Every cell of a seed sees the same teacher, images, crops, holes and order, and starts from the same weights wherever
two cells have them. Interrupted, the same command goes on. Writes benchmarks/results/plain_vs_distilled_NAME.json.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro

from kdinpaint import AutoEncoder, InpaintingNet, create_model
from kdinpaint._core.command_line import command_line
from kdinpaint.data import demo_photos, list_images
from kdinpaint.training import DataConfig, DistillConfig, OptimConfig, Run, RuntimeConfig, StudentConfig
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"
OFF = DistillConfig(cross=0.0, self_distill=0.0)


@dataclass(frozen=True)
class Config:
    """What is run."""

    photos: Path | None = None
    """Training photos; those inside scikit-image by default."""
    held_out: Path | None = None
    """Photos to measure on."""
    name: str = "bundled"
    """Of the result file."""
    seeds: tuple[int, ...] = (0, 1, 2)
    size: int = 64
    batch: int = 12
    lr: float = 1e-3
    teacher_steps: int = 1000
    student_steps: int = 1500
    cross: float = 0.01
    """Weight of cross distillation."""
    init: Literal["teacher", "encoder"] = "teacher"
    """What starts from the teacher's weights: encoder and decoder, or the encoder alone."""
    per_bin: int = 50
    min_window: float = 0.2
    """Smallest training window, as a share of a photo's shorter side."""
    recolor: bool = True
    """Vary the colours of training samples."""
    work: Path = Path("runs/plain_vs_distilled")
    """Where the runs go."""


def cells(config: Config) -> dict[str, tuple[str, StudentConfig]]:
    """Model and training of every cell, by its name."""
    distill = DistillConfig(cross=config.cross)
    return {
        "plain": ("kdinpaint_tiny_plain", StudentConfig(distill=OFF, init=config.init)),
        "distilled": ("kdinpaint_tiny", StudentConfig(distill=distill, init=config.init)),
        "plain, scratch": ("kdinpaint_tiny_plain", StudentConfig(distill=OFF, init="scratch")),
        "distilled, scratch": ("kdinpaint_tiny", StudentConfig(distill=distill, init="scratch")),
    }


def one_seed(config: Config, seed: int) -> dict[str, Any]:
    """Train and measure every cell with one seed."""
    if config.photos is None:
        bundled = demo_photos()
        photos, held_out = bundled.train, bundled.held_out
    else:
        photos, held_out = list_images(config.photos), list_images(cast(Path, config.held_out))
    run = Run(
        config.work / config.name / str(seed),
        config={k: v for k, v in asdict(config).items() if k not in ("photos", "held_out", "seeds", "work")},
        data=DataConfig(size=config.size, min_window=config.min_window, recolor=config.recolor),
        runtime=RuntimeConfig(device="cpu", checkpoint_every=200),
        seed=seed,
        mixed_precision="no",
        photos=photos,
        held_out=held_out,
    )
    manifest = run.manifest(config.per_bin)
    optim = OptimConfig(batch=config.batch, lr=config.lr, schedule="cosine")
    torch.manual_seed(seed)
    teacher = cast(AutoEncoder, create_model("autoencoder_tiny"))
    teacher = run.train_teacher(teacher, replace(optim, steps=config.teacher_steps))
    trained = {}
    for name, (model, student) in cells(config).items():
        torch.manual_seed(seed)
        shared = create_model("kdinpaint_tiny").state_dict()
        net = cast(InpaintingNet, create_model(model))
        net.load_state_dict({key: shared[key] for key in net.state_dict()})
        student = replace(student, optim=replace(optim, steps=config.student_steps))
        trained[name] = run.train_student(name.replace(", ", "-"), net, teacher, student)
    return run.evaluate(trained, manifest)


def main(config: Config) -> None:
    began = time.time()
    runs = [one_seed(config, seed) for seed in config.seeds]
    content = {
        "command": command_line("python benchmarks/plain_vs_distilled.py", config, leave_out=("work",)),
        "config": {k: v for k, v in asdict(config).items() if k not in ("photos", "held_out", "work")},
        "photos": "inside scikit-image" if config.photos is None else f"in DIR: {len(list_images(config.photos))}",
        "environment": environment(),
        "minutes": (time.time() - began) / 60,
        "seeds": {
            str(seed): {
                "manifest": run["manifest"],
                "models": {name: {k: v for k, v in m.items() if k != "records"} for name, m in run["models"].items()},
                "psnr": {name: [r["psnr"] for r in m["records"]] for name, m in run["models"].items()},
                "train_seconds": run["train_seconds"],
            }
            for seed, run in zip(config.seeds, runs, strict=True)
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"plain_vs_distilled_{config.name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
