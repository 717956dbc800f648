"""One cell and one seed: its teacher, its training, its measures, one JSON file."""

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from kdinpaint._core.errors import KDInpaintWarning
from kdinpaint._core.files import write_text
from kdinpaint.ablation.measuring import EvaluationPairs, mechanism, quick_score, score
from kdinpaint.ablation.networks import LeadingChannels, make_student, make_teacher
from kdinpaint.ablation.settings import CellSettings
from kdinpaint.ablation.timm_teacher import load_timm, make_timm, save_timm
from kdinpaint.data import PairManifest, ResidentBatches, ResidentData
from kdinpaint.metrics import RatioTable
from kdinpaint.models import AutoEncoder, InpaintingNet, load_model, model_cost, save_model
from kdinpaint.training.claim import claim_folder
from kdinpaint.training.config import RuntimeConfig
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.objectives import TeacherObjective
from kdinpaint.training.student import StudentObjective

__all__ = ["CellTask", "Settled", "TeacherTask"]

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Settled:
    """What all tasks of an ablation share.

    Attributes:
        manifest: The frozen pairs, a file.
        held_out: Folder that the manifest's paths are relative to.
        fingerprint: Of the training photos and the manifest: whatever results depend on besides settings.
        device: "auto" or "cpu".
        checkpoint_every: Steps.
        eval_every: Steps between points of the learning curve; 0 for none.
        eval_pairs: Pairs that these points are measured on.
    """

    manifest: Path
    held_out: Path
    fingerprint: dict[str, str]
    device: str
    checkpoint_every: int
    eval_every: int
    eval_pairs: int

    def runtime(self) -> RuntimeConfig:
        """For the engine."""
        device = "cpu" if self.device == "cpu" else "auto"
        return RuntimeConfig(device=device, checkpoint_every=self.checkpoint_every, log_every=50)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TeacherTask:
    """Train the teacher of one seed and one setting; cells that want the same one share it.

    Attributes:
        name: For progress and messages.
        seed: Of weights and data.
        settings: Of any cell that has this teacher.
        data: File of the resident data.
        folder: Where it goes.
        shared: See `Settled`.
    """

    name: str
    seed: int
    settings: CellSettings
    data: Path
    folder: Path
    shared: Settled

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.settings.teacher.optim.steps if self.settings.teacher.kind == "trained" else 0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / "done").exists()

    def run(self, progress: Progress | None) -> None:
        """Do the work, or what is left of it.

        Args:
            progress: Called with the number of steps done; with it there is no progress bar.
        """
        plain = self.settings.plain()
        content = {"teacher": plain["teacher"], "data": plain["data"], "seed": self.seed, **self.shared.fingerprint}
        claim_folder(self.folder, json.loads(json.dumps(content)))
        net = make_teacher(self.settings, self.seed)
        teacher = self.settings.teacher
        if teacher.kind == "timm":
            levels = len(net.channels)
            save_timm(make_timm(self.settings, levels, self.seed, pretrained=teacher.pretrained), self.folder)
        elif teacher.kind == "random":
            save_model(net, self.folder / "teacher")
        else:
            self._train(net, progress)
        write_text(self.folder / "done", "")

    def _train(self, net: AutoEncoder, progress: Progress | None) -> None:
        settings, runtime = self.settings, self.shared.runtime()
        accelerator = make_accelerator(runtime, settings.mixed_precision, self.folder / "tensorboard")
        torch.manual_seed(self.seed)
        stage = Stage(
            "teacher",
            TeacherObjective(net),
            settings.teacher.optim,
            runtime,
            self.folder / "teacher",
            accelerator,
            on_step=None if progress is None else lambda stage: progress(stage.step),
            quiet=progress is not None,
        )
        stage.run(_batches(self.data, settings, self.seed, accelerator.device, holes=False))


@dataclass(frozen=True)
class CellTask:
    """Train one cell with one seed and measure it.

    Attributes:
        name: For progress and messages.
        cell: Name of the cell.
        seed: Of weights and data.
        settings: Of the cell.
        data: File of the resident data.
        teacher: Folder of the `TeacherTask` it needs.
        folder: Where everything goes.
        shared: See `Settled`.
    """

    name: str
    cell: str
    seed: int
    settings: CellSettings
    data: Path
    teacher: Path
    folder: Path
    shared: Settled

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.settings.student.optim.steps

    @property
    def result(self) -> Path:
        """The file that says that the task is done."""
        return self.folder / "result.json"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.result.exists()

    def content(self) -> dict[str, Any]:
        """Whatever the result depends on."""
        plain = {"settings": self.settings.plain(), "seed": self.seed, **self.shared.fingerprint}
        curve = {"eval_every": self.shared.eval_every, "eval_pairs": self.shared.eval_pairs}
        return cast("dict[str, Any]", json.loads(json.dumps({**plain, "curve": curve}, default=str)))

    def run(self, progress: Progress | None) -> None:
        """Do the work, or what is left of it.

        Args:
            progress: Called with the number of steps done; with it there is no progress bar.
        """
        claim_folder(self.folder, self.content())
        settings, student = self.settings, self.settings.student
        runtime = self.shared.runtime()
        accelerator = make_accelerator(runtime, settings.mixed_precision, self.folder / "tensorboard")
        device = accelerator.device
        manifest = PairManifest.load(self.shared.manifest)
        pairs = EvaluationPairs.load(manifest, self.shared.held_out, channels=settings.data.channels, device=device)
        net = make_student(settings, self.seed)
        teacher = self._teacher(net).eval().to(device)
        torch.manual_seed(self.seed)
        distills = student.distill.active
        objective = StudentObjective(net, teacher if distills else None, loss=student.loss, distill=student.distill)
        curve = _Curve(self.folder / "curve.json", self.shared, pairs, student.optim.steps, progress)
        stage = Stage(
            "student",
            objective,
            student.optim,
            runtime,
            self.folder / "student",
            accelerator,
            on_step=curve,
            quiet=progress is not None,
        )
        trained = cast(InpaintingNet, stage.run(_batches(self.data, settings, self.seed, device, holes=True)))
        objective.eval()
        cost = model_cost(trained, pairs.image[:1], pairs.mask[:1])
        result = {
            **_table(score(trained, pairs)),
            "teacher": self.teacher.name,
            "curve": curve.points,
            "mechanism": mechanism(trained, teacher, objective if distills else None, pairs),
            "parameters": cost.parameters,
            "gmac": round(cost.gmac, 4),
            "train_seconds": round(stage.seconds - curve.seconds, 1),
        }
        write_text(self.result, json.dumps(result, indent=1) + "\n")

    def _teacher(self, net: InpaintingNet) -> nn.Module:
        """The teacher; the student starts from it if the settings say so."""
        if self.settings.teacher.kind == "timm":
            return load_timm(self.settings, len(net.channels), self.teacher)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", KDInpaintWarning)  # an over-complete teacher was asked for
            autoencoder = cast(AutoEncoder, load_model(self.teacher / "teacher", device="cpu"))
        init = self.settings.student.init
        if init != "scratch":
            net.load_from(autoencoder, decoder=init == "teacher", leading=True)
        return LeadingChannels(autoencoder, net.channels)


class _Curve:
    """Quality of the averaged weights on some of the pairs while a student trains; survives a restart.

    Args:
        path: Of the points so far.
        shared: Says how often, and on how many pairs.
        pairs: Of which some are used.
        steps: Of the whole training.
        progress: Told after every step, if given.
    """

    def __init__(
        self, path: Path, shared: Settled, pairs: EvaluationPairs, steps: int, progress: Progress | None
    ) -> None:
        self.path, self.steps, self.every = path, steps, shared.eval_every
        self.pairs = pairs.spread(shared.eval_pairs)
        self.progress = progress
        self.points: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []

    @property
    def seconds(self) -> float:
        """Time that was spent here."""
        return sum(point["seconds"] for point in self.points)

    def __call__(self, stage: Stage) -> None:
        if self.progress is not None:
            self.progress(stage.step)
        if not self.every or (stage.step % self.every and stage.step != self.steps):
            return
        began = time.monotonic()
        metrics = quick_score(cast(InpaintingNet, stage.ema.module), self.pairs)
        # A run that was killed may come past steps that it has measured before.
        self.points = [point for point in self.points if point["step"] < stage.step]
        point = {name: round(value, 5) for name, value in metrics.items()}
        self.points.append({"step": stage.step, **point, "seconds": round(time.monotonic() - began, 2)})
        write_text(self.path, json.dumps(self.points) + "\n")


def _batches(data: Path, settings: CellSettings, seed: int, device: torch.device, *, holes: bool) -> ResidentBatches:
    return ResidentBatches(
        ResidentData.load(data).to(device),
        size=settings.data.size,
        seed=seed,
        min_window=settings.data.min_window,
        recolor=settings.data.recolor,
        holes=holes,
    )


def _table(table: RatioTable) -> dict[str, Any]:
    names = [name for name in table.records[0] if name != "ratio"]
    return {
        **table.summary(),
        "records": {name: [round(record[name], 5) for record in table.records] for name in names},
    }
