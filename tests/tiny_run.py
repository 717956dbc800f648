"""A run small enough for tests. As a script: tiny_run.py PHOTOS OUT [half-written], killed or not by the caller."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdinpaint.training import (
    DataConfig,
    EvaluationConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
    train,
)


def write_photos(folder: Path, count: int = 6, size: int = 48) -> Path:
    """Smooth random pictures: enough structure to learn, no file from anywhere."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def tiny_config(photos: Path, out: Path, *, checkpoint_every: int = 3, **student: object) -> TrainConfig:
    return TrainConfig(
        photos=photos,
        out=out,
        model="kdinpaint_tiny",
        data=DataConfig(size=32),
        teacher=TeacherConfig(optim=OptimConfig(steps=4, batch=2, lr=1e-3)),
        student=StudentConfig(optim=OptimConfig(steps=12, batch=2, lr=1e-3, schedule="cosine"), **student),
        evaluation=EvaluationConfig(per_bin=1),
        runtime=RuntimeConfig(device="cpu", checkpoint_every=checkpoint_every, log_every=1),
    )


def _die_halfway(path: Path, keep: int) -> None:
    """Let torch.save write `keep` checkpoints, then half of the next, then SIGKILL."""
    real, count = torch.save, 0

    def save(state: object, target: object) -> None:
        nonlocal count
        count += 1
        real(state, target)
        if count > keep:
            data = Path(str(target)).read_bytes()
            Path(str(target)).write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save


if __name__ == "__main__":
    torch.set_num_threads(1)
    photos, out = Path(sys.argv[1]), Path(sys.argv[2])
    if sys.argv[3:] == ["half-written"]:
        _die_halfway(out, keep=4)  # two of the teacher, two of the student
    train(tiny_config(photos, out))
