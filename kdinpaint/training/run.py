"""A run: one folder, one set of photos, the stages that are trained there and what is measured at the end."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from kdinpaint._core.files import write_text
from kdinpaint.data import (
    MaskFolder,
    MaskGenerator,
    PairManifest,
    PhotoFolder,
    StoredPhotos,
    TrainingSamples,
    common_folder,
)
from kdinpaint.data.samples import MaskSource, Photos
from kdinpaint.models import AutoEncoder, InpaintingNet
from kdinpaint.models.comparators import Comparator
from kdinpaint.training.claim import claim_folder, fingerprint
from kdinpaint.training.config import DataConfig, OptimConfig, RuntimeConfig, StudentConfig
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.environment import environment
from kdinpaint.training.evaluation import evaluate_models
from kdinpaint.training.objectives import Objective, TeacherObjective
from kdinpaint.training.student import ExtraLoss, StudentObjective
from kdinpaint.training.watch import Watch

__all__ = ["Run", "config_dict"]


def config_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass
    """A configuration as plain JSON values, without what does not change results."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name in ("runtime", "out"):
        plain.pop(name, None)
    return cast("dict[str, Any]", plain)


class Run:
    """Owns a run folder. A folder belongs to one configuration and one set of photos for ever.

    In distributed training every process makes the same run and calls the same methods. The main process alone writes.

    Args:
        folder: Where everything goes; made if missing.
        config: The whole configuration, written to `config.json` and compared when the folder is used again.
        data: What the networks see.
        runtime: What does not change results.
        seed: Of weights, data order and masks.
        mixed_precision: "no", "bf16" or "fp16".
        photos: Training photos.
        held_out: Photos for evaluation.
        masks: Training masks; generated ones by default.
        test_masks: Masks to evaluate with; generated ones by default.

    Raises:
        ConfigError: The folder holds a run of another configuration, other photos or other masks.
        OutputError: The folder cannot be written.
        DataError: No usable photos.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: dict[str, Any],
        data: DataConfig,
        runtime: RuntimeConfig,
        seed: int,
        mixed_precision: str,
        photos: Sequence[Path] | StoredPhotos,
        held_out: Sequence[Path],
        masks: MaskSource | None = None,
        test_masks: MaskFolder | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.runtime = runtime
        self.seed = seed
        self.held_out = list(held_out)
        self.masks, self.test_masks = masks, test_masks
        self.photos = _opened(photos, data)
        found = photos.fingerprint if isinstance(photos, StoredPhotos) else fingerprint(photos)
        files = {
            f"{name}_sha256": fingerprint(source.paths)
            for name, source in (("masks", masks), ("test_masks", test_masks))
            if isinstance(source, MaskFolder)
        }
        self.accelerator = make_accelerator(runtime, mixed_precision, folder / "tensorboard")
        with self.accelerator.main_process_first():  # which writes; the others find and compare
            claim_folder(folder, {**config, "photos_sha256": found, "held_out_sha256": fingerprint(held_out), **files})
        self.seconds: dict[str, float] = {}
        self.watch: Watch | None = None

    def samples(self, optim: OptimConfig, *, masks: bool) -> TrainingSamples:
        """The stream of training samples: number i is the same for every stage, student and restart."""
        generator = self.masks or MaskGenerator(self.data.holes, ratio=self.data.hole_ratio)
        return TrainingSamples(
            self.photos,
            generator if masks else _no_hole,
            size=self.data.size,
            seed=self.seed,
            length=optim.steps * optim.batch,
            recolor=self.data.recolor,
            min_window=self.data.min_window,
        )

    def train_teacher(self, net: AutoEncoder, optim: OptimConfig) -> AutoEncoder:
        """Train, or finish training, the teacher; returns averaged weights."""
        return cast(AutoEncoder, self._train("teacher", TeacherObjective(net), optim, masks=False))

    def train_student(
        self,
        name: str,
        net: InpaintingNet,
        teacher: AutoEncoder | None,
        config: StudentConfig,
        *,
        extra: Mapping[str, ExtraLoss] | None = None,
    ) -> InpaintingNet:
        """Train, or finish training, a student; returns averaged weights.

        Args:
            name: Of the stage: its folder and log.
            net: The fresh student; it takes the teacher's weights if the configuration says so.
            teacher: The trained teacher, or None for neither initialisation nor distillation.
            config: Optimisation, losses and distillation.
            extra: Further losses, see `StudentObjective`.
        """
        if teacher is not None and config.init != "scratch":
            net.load_from(teacher, decoder=config.init == "teacher")
        objective = StudentObjective(
            net, teacher if config.distill.active else None, loss=config.loss, distill=config.distill, extra=extra
        )
        return cast(InpaintingNet, self._train(name, objective, config.optim, masks=True))

    def train(self, name: str, objective: Objective, optim: OptimConfig) -> torch.nn.Module:
        """Train, or finish training, any objective on images and masks; returns averaged weights.

        Args:
            name: Of the stage: its folder, which may be nested, and its log.
            objective: What is minimised.
            optim: Optimisation.
        """
        return self._train(name, objective, optim, masks=True)

    def _train(self, name: str, objective: Objective, optim: OptimConfig, *, masks: bool) -> torch.nn.Module:
        watch = self.watch if masks else None
        folder, settings = self.folder / name, self.config
        stage = Stage(name, objective, optim, self.runtime, folder, self.accelerator, on_step=watch, settings=settings)
        net = stage.run(self.samples(optim, masks=masks))
        self.seconds[name] = stage.seconds
        return net

    def manifest(self, per_bin: int, *, min_side: int | None = None) -> PairManifest:
        """The frozen evaluation list of this run, made once.

        Args:
            per_bin: Pairs in each hole-ratio bin.
            min_side: Smallest side of a photo; photos smaller than the evaluation are enlarged.
        """
        path = self.folder / "manifest.json"
        if self.accelerator.is_main_process and not path.exists():
            # Windows of few photos must differ; of many, the middle of each is enough.
            windows = max(1, -(-6 * per_bin // max(len(self.held_out), 1)))
            manifest = PairManifest.build(
                self.held_out,
                size=self.data.size,
                masks=self.test_masks or MaskGenerator(self.data.holes),
                per_bin=per_bin,
                seed=self.seed,
                windows_per_photo=windows if self.data.dataset is None else 1,
                min_side=min_side,
            )
            manifest.save(path)
        self.accelerator.wait_for_everyone()
        return PairManifest.load(path)

    def evaluate(
        self,
        models: Mapping[str, InpaintingNet | Comparator],
        manifest: PairManifest,
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Evaluate students and write `metrics.json`, with further results beside theirs."""
        pairs = manifest.pairs(common_folder(self.held_out), channels=self.data.channels)
        results = {
            "protocol": "default",
            "manifest": manifest.hash,
            "seed": self.seed,
            "environment": environment(),
            "train_seconds": self.seconds,
            **(extra or {}),
            "models": evaluate_models(models, pairs, size=self.data.size),
        }
        if self.accelerator.is_main_process:
            write_text(self.folder / "metrics.json", json.dumps(results, indent=1) + "\n")
        return results


def _opened(photos: Sequence[Path] | StoredPhotos, data: DataConfig) -> Photos:
    if isinstance(photos, StoredPhotos):
        return photos
    return PhotoFolder(list(photos), channels=data.channels, min_size=data.size, on_error=data.on_error)


def _no_hole(size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    return torch.zeros(1, *size)
