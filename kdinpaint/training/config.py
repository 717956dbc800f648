"""Typed configurations. The command line is made from them, and every run folder keeps its own.

Defaults follow the decision table of the documentation; where the paper is silent the choice is ours.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdinpaint._core.errors import ConfigError

__all__ = [
    "ComparatorConfig",
    "DataConfig",
    "DatasetName",
    "DistillConfig",
    "EvaluationConfig",
    "LossConfig",
    "OptimConfig",
    "RuntimeConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
]

DatasetName = Literal[
    "celeba", "paris", "places2", "places2-large", "places2-challenge", "places2-challenge-large", "shards"
]


def _at_least(smallest: int, **values: int) -> None:
    for name, value in values.items():
        if value < smallest:
            raise ConfigError(f"{name} is {value}; expected at least {smallest}.")


@dataclass(frozen=True)
class DataConfig:
    """What the networks see."""

    size: int = 128
    """Side of the square training crops, pixels."""
    channels: Literal[1, 3] = 3
    """1 trains on grey photos, 3 on colour."""
    min_window: float = 0.5
    """Smallest window that is cut from a photo and resized, as a share of its shorter side."""
    recolor: bool = False
    """Shuffle channels, change gamma, contrast and brightness; worth much with a handful of photos."""
    holes: Literal["mixed", "strokes", "boxes"] = "mixed"
    """Shapes of the generated training masks."""
    hole_ratio: tuple[float, float] = (0.01, 0.6)
    """Range of the share of hole pixels."""
    on_error: Literal["skip", "raise"] = "skip"
    """What to do with photos that cannot be read or are smaller than the crop."""
    dataset: DatasetName | None = None
    """A data set in its own layout, with its own split; by default `photos` is any folder."""
    masks: Path | None = None
    """Mask files to train with, those of hole_ratio; generated masks by default."""
    polarity: Literal["auto", "hole", "known"] = "auto"
    """What white means in the mask files."""


@dataclass(frozen=True)
class OptimConfig:
    """How one network is optimised."""

    steps: int = 20_000
    """Optimiser steps."""
    batch: int = 8
    """Images a step, of all processes together."""
    accumulate: int = 1
    """Parts that each process works its share of a batch in, one after the other: less memory, one step of the network
    with the gradient of the whole batch. Discriminators, where an objective has them, take a step with each part."""
    lr: float = 2e-4
    """Learning rate of Adam; the paper's 1e-4 is for 400,000 steps and more."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate over time; cosine ends at a tenth."""
    warmup: int = 0
    """Steps over which the learning rate rises from 0 to where the schedule is by then."""
    offset_lr_scale: float = 1.0
    """Factor on the learning rate of the convolutions that generate offsets."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient of a whole batch, or None."""
    ema_decay: float = 0.999
    """Decay of the averaged weights that are evaluated and kept; it warms up, so short runs average less."""

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, batch=self.batch, accumulate=self.accumulate)
        _at_least(0, warmup=self.warmup)

    def check_batch(self, processes: int) -> None:
        """Whether a batch can be shared out.

        Args:
            processes: That work on it.

        Raises:
            ConfigError: Not in equal parts.
        """
        if self.batch % (processes * self.accumulate):
            raise ConfigError(
                f"batch is {self.batch} with {processes} processes and accumulate={self.accumulate}; expected a "
                f"multiple of {processes} x {self.accumulate}, so that every part has as many images. Change batch or "
                f"accumulate."
            )


@dataclass(frozen=True)
class LossConfig:
    """The inpainting loss: L1 on the raw prediction, each part averaged over its own area."""

    known: float = 1.0
    """Weight of the known pixels."""
    hole: float = 6.0
    """Weight of the hole pixels."""


@dataclass(frozen=True)
class DistillConfig:
    """Supervision of the student's encoder."""

    cross: float = 0.01
    """Weight of cross distillation (Eq. 1); 0 switches it off."""
    self_distill: float = 0.1
    """Weight of self distillation (Eq. 2); 0 switches it off."""
    attention_transfer: float = 0.0
    """Weight of attention transfer in the decoder; needs a teacher with attention, which `train` then builds."""
    importance: Literal["meta", "uniform", "random", "joint"] = "meta"
    """Channel weights: meta-learned; 1/C; drawn once and fixed, or trained with the loss itself, which collapses (both
    for ablations)."""
    scale: Literal["teacher_std", "none"] = "teacher_std"
    """Divide features by the running per-channel deviation of the target."""
    reduction: Literal["mean", "sum"] = "mean"
    """Average over hole cells, or the sum of the equations as printed."""
    mask_resize: Literal["max", "nearest", "area"] = "max"
    """How the mask reaches the resolution of a level."""
    distance: Literal["mse", "smooth_l1", "cosine", "heteroscedastic"] = "mse"
    """How cross distillation compares features; see `CrossDistillLoss`, as for the next four."""
    region: Literal["hole", "all", "known"] = "hole"
    """Cells that are compared."""
    rim: float | None = None
    """Decay length in cells: hole cells far from the known ones lose weight, because less of them can be known."""
    low_pass: int = 1
    """Side in cells of the blocks whose means are compared; 1 compares cells."""
    aligner: Literal["none", "teacher", "student"] = "none"
    """A meta-learned transform of the teacher's features (the ICCV form); or a linear one of the student's that trains
    with it, so that it may keep a code of its own."""
    level_weights: Literal["equal", "learned"] | tuple[float, ...] = "equal"
    """Weights of the levels; learned ones are meta-learned, and can switch off a level that is out of reach. Or a
    factor for each level of cross distillation, shallow to deep: 0 0 1 is the deepest of three alone, as heavy as
    before."""
    everywhere_first: float = 0.0
    """Share of the steps, at the start, in which all cells are compared, so that the feature spaces agree first."""
    balance: Literal["none", "norm", "project"] = "none"
    """Gradients of distillation: as they are; at `balance_ratio` of the task gradient's norm; or without the part that
    points against the task gradient."""
    balance_ratio: float = 0.5
    """See `balance`."""
    self_ramp: float = 0.2
    """Self distillation grows from 0 to its weight over this share of the steps: deep features start as noise."""
    teacher_forcing: float = 0.0
    """The share of samples, at the start, whose decoder reads the teacher's features in the hole."""
    teacher_forcing_until: float = 0.5
    """Share of the steps over which `teacher_forcing` falls to 0."""
    off_last: float = 0.0
    """Share of the steps, at the end, without distillation."""
    detach_target: bool = True
    """Keep self distillation from pulling the deeper features down."""
    floor: float = 0.1
    """Part of the channel weights that is spread evenly."""
    temperature: float = 1.0
    """Of the softmax over channels."""
    pool: Literal["all", "hole"] = "all"
    """Cells that an importance predictor averages over."""
    meta_method: Literal["align", "lookahead", "l2t"] = "align"
    """How the meta-learner finds what serves the task: see `MetaLearner`."""
    meta_every: int = 10
    """Steps from one update of the importance predictors to the next."""
    meta_lr: float = 1e-3
    """Their learning rate; 1e-4 for runs of 20,000 steps and more."""
    meta_weight_decay: float = 1e-4
    """Their weight decay."""
    meta_inner_lr: float = 1e-3
    """Learning rate of virtual steps ("lookahead", "l2t")."""
    meta_inner_steps: int = 2
    """Virtual steps on the distillation losses ("l2t")."""
    meta_inner_momentum: float = 0.0
    """Momentum of the virtual steps ("l2t")."""
    meta_inner_weight_decay: float = 0.0
    """Weight decay of the virtual steps ("l2t")."""

    @property
    def active(self) -> bool:
        """Whether anything is distilled."""
        return any((self.cross, self.self_distill, self.attention_transfer, self.teacher_forcing))

    def check_levels(self, levels: int) -> None:
        """Whether `level_weights` fit a student.

        Args:
            levels: Of its encoder.

        Raises:
            ConfigError: Another number of weights, a negative one, or nothing but zeros.
        """
        given = self.level_weights
        if isinstance(given, str):
            return
        if len(given) != levels or not any(given) or not all(0 <= weight < math.inf for weight in given):
            raise ConfigError(
                f"level_weights are {' '.join(map(str, given)) or 'empty'}; expected {levels} numbers, one for each "
                f"level of the student's encoder, shallow to deep, at least 0 and not all of them 0."
            )


@dataclass(frozen=True)
class TeacherConfig:
    """The autoencoder that sees intact images."""

    optim: OptimConfig = OptimConfig(steps=10_000)
    weights: Path | None = None
    """Use this trained autoencoder (a folder) instead of training one."""


@dataclass(frozen=True)
class StudentConfig:
    """The inpainting network."""

    optim: OptimConfig = OptimConfig(steps=20_000)
    init: Literal["teacher", "encoder", "scratch"] = "teacher"
    """Start encoder and decoder from the teacher's, the encoder alone, or neither."""
    filler: Literal["model", "parallel", "serial", "none"] = "model"
    """Where filler blocks stand: beside a level (Eq. 3), behind it (the ICCV form), nowhere, or as the model says."""
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()


@dataclass(frozen=True)
class ComparatorConfig:
    """Training of pc, gc, ec or pic: their published recipes, unless a budget says otherwise."""

    steps: int | None = None
    """Optimiser steps of all phases together; the published ones, which are days of a GPU, by default."""
    batch: int | None = None
    """Images a step; the published number by default."""
    ema_decay: float = 0.0
    """Decay of averaged weights; 0, as published, keeps the last ones."""
    vgg: str = "imagenet"
    """Weights for perceptual and style losses (pc, ec): imagenet, downloaded by torchvision; a file; or random, for
    dry runs without meaning."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured at the end."""

    photos: Path | None = None
    """Held-out photos; without them every twentieth training photo is kept out of training and used."""
    per_bin: int = 50
    """Image-mask pairs in each hole-ratio bin."""
    every: int = 0
    """Steps of the student between evaluations on the way, each with a sheet of samples; 0 for none."""
    masks: Path | None = None
    """Mask files to evaluate with; generated masks by default."""
    polarity: Literal["auto", "hole", "known"] = "auto"
    """What white means in the mask files."""


@dataclass(frozen=True)
class RuntimeConfig:
    """Choices that change how fast a run goes and what it says, not what it computes."""

    device: Literal["auto", "cpu"] = "auto"
    """cpu keeps off a GPU."""
    workers: int = 0
    """Processes that prepare training samples, for each training process."""
    prefetch: int = 4
    """Batches that each worker prepares ahead."""
    compile: bool = False
    """Compile the networks with torch.compile; other rounding, a start that takes minutes; not for gc, ec, pic."""
    channels_last: bool = False
    """Keep features channels last in memory, which tensor cores prefer; other rounding."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    log_every: int = 10
    """Steps between points in the logs; on the same steps, losses are checked for NaN."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where the logs go."""
    photos_in_memory: bool = False
    """Copy the training images of a named data set to memory, still encoded, before the first step."""

    def __post_init__(self) -> None:
        _at_least(1, checkpoint_every=self.checkpoint_every, log_every=self.log_every, prefetch=self.prefetch)
        _at_least(0, workers=self.workers)


@dataclass(frozen=True)
class TrainConfig:
    """Train a teacher and a student on a folder of photos, evaluate the student, write it all to a run folder."""

    photos: Path
    """Folder of training photos, searched recursively."""
    out: Path
    """Run folder. If it holds an unfinished run of the same configuration, that goes on."""
    model: str = "kdinpaint_small"
    """A student of `kdinpaint.list_models()`, with the autoencoder of the same widths for its teacher; or a
    comparator, pc, gc, ec or pic, which has none and is trained as `comparator` says."""
    seed: int = 0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    comparator: ComparatorConfig = ComparatorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
