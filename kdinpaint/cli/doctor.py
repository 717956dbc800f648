"""`kdinpaint doctor`: is this data ready, and what will a run take here?"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import torch
import tyro

from kdinpaint._core.errors import DataError, KDInpaintError, KDInpaintWarning
from kdinpaint.cli.estimate import Estimate, estimate_run
from kdinpaint.cli.proposal import Proposal, propose
from kdinpaint.data import CelebA, FolderStore, IrregularMasks, ParisStreetView, Places2, StoredPhotos
from kdinpaint.data.checkup import Finding, MaskPolarity, check_masks, check_photos
from kdinpaint.data.irregular_masks import Split, find_archive
from kdinpaint.training import TrainConfig
from kdinpaint.training.config import DatasetName
from kdinpaint.training.presets import parse_budget
from kdinpaint.training.sources import open_dataset, open_masks, open_sources

__all__ = ["DoctorConfig", "command", "examine"]

_MARKS = {"ok": "ok  ", "warning": "warn", "error": "STOP"}


@dataclass(frozen=True)
class DoctorConfig:
    """Look at a data set and at mask files, and estimate a run. Exits with 0 if training can start, with 1 if not."""

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
    """Folder of CelebA, Places2 or Paris StreetView, of tar shards, or of any photos."""
    masks: Path | None = None
    """Folder of mask files."""
    polarity: Literal["auto", "hole", "known"] = "auto"
    """What white means in the mask files."""
    dataset: DatasetName | None = None
    """Which data set; found out from the layout by default."""
    preset: str | None = None
    """What is to be trained; the paper's preset for its data sets by default, a small student for other photos."""
    budget: str = "1"
    """Share of the preset's iterations, such as 0.01 or 1%."""
    size: Annotated[int | None, tyro.conf.arg(name="data.size")] = None
    """Side of the training crops, pixels; that of the preset by default, or 128."""
    evaluation_photos: Annotated[Path | None, tyro.conf.arg(name="evaluation.photos")] = None
    """Held-out photos, which tar shards need; by default those of the data set, or every twentieth photo."""
    look_at: int | None = 200
    """Photos and masks to decode of each part, evenly spaced; None for all."""
    time: bool = True
    """Take a few training steps to estimate time and memory."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu keeps off a GPU."""


@dataclass(frozen=True)
class _Part:
    name: str
    photos: StoredPhotos
    published: int | None


def command(config: Annotated[DoctorConfig, tyro.conf.arg(name="")]) -> None:
    """Check data and masks, and estimate time and memory, before a long run."""
    try:
        proposal = propose(
            config.data,
            masks=config.masks,
            polarity=config.polarity,
            dataset=config.dataset,
            preset=config.preset,
            budget=config.budget,
            size=config.size,
            evaluation_photos=config.evaluation_photos,
        )
    except DataError as error:
        _stop(Finding("error", str(error)))
    ready = True
    for finding in examine(proposal, look_at=config.look_at, time=config.time, device=config.device):
        print(f"{_MARKS[finding.level]}  {finding.text}", flush=True)
        ready = ready and finding.level != "error"
    if not ready:
        _stop()
    print(f"\nTraining can start:\n  {proposal.command}")


def _stop(*findings: Finding) -> NoReturn:
    for finding in findings:
        print(f"{_MARKS[finding.level]}  {finding.text}")
    print("\nTraining cannot start: see the lines marked STOP.")
    sys.exit(1)


def examine(
    proposal: Proposal, *, look_at: int | None = 200, time: bool = True, device: str = "auto"
) -> Iterator[Finding]:
    """Look at everything that a run would use, finding by finding.

    Args:
        proposal: The run.
        look_at: Photos and masks to decode of each part; None for all.
        time: Whether to take a few training steps, for time and memory.
        device: "cpu" keeps off a GPU.
    """
    config = proposal.config
    yield Finding("ok", f"{config.photos}: {config.data.dataset or 'a folder of photos'}")
    try:
        parts, min_side = _parts(config)
    except KDInpaintError as error:
        yield Finding("error", str(error))
        return
    milliseconds = float("nan")
    for part in parts:
        check = check_photos(part.photos, part.name, expected=part.published, min_side=min_side, look_at=look_at)
        yield from check.findings
        milliseconds = check.milliseconds if part.name == "train" else milliseconds
    yield from _masks(config, look_at)
    if time:
        yield Finding("ok", "time: measuring steps of teacher and student ...")
        yield from _costs(proposal, estimate_run(config, device=device), milliseconds)


def _parts(config: TrainConfig) -> tuple[list[_Part], int]:
    """What `train` would open, and the smallest side that it wants. Of a named data set the whole test part."""
    data, evaluation = replace(config.data, masks=None), replace(config.evaluation, masks=None)
    sources = open_sources(config.photos, data, evaluation, in_memory=False)
    train = sources.photos if isinstance(sources.photos, StoredPhotos) else _stored(sources.photos, data.channels)
    published: dict[str, int] = {}
    if data.dataset == "celeba":
        published = CelebA.COUNTS
    elif data.dataset == "paris":
        published = ParisStreetView.COUNTS
    elif (data.dataset or "").startswith("places2"):
        variant = "challenge" if "challenge" in (data.dataset or "") else "standard"
        published = {"train": Places2.COUNTS[variant], "test": Places2.COUNTS["val"]}
    if published and evaluation.photos is None:
        test = _Part("test", open_dataset(config.photos, data, "test"), published["test"])
    else:
        test = _Part("held out", _stored(sources.held_out, data.channels), None)
    return [_Part("train", train, published.get("train")), test], sources.min_side


def _stored(files: Sequence[Path], channels: int) -> StoredPhotos:
    return StoredPhotos(FolderStore(Path(), [path.as_posix() for path in files]), channels=channels)


def _masks(config: TrainConfig, look_at: int | None) -> Iterator[Finding]:
    """Those to train and those to test with."""
    train, test = config.data.masks, config.evaluation.masks
    if train is not None:
        yield from _mask_files(train, "masks", "train", config.data.polarity, look_at)
    if test is not None:
        yield from _mask_files(test, "test masks", "test", config.evaluation.polarity, look_at)


def _mask_files(root: Path, name: str, part: Split, polarity: MaskPolarity, look_at: int | None) -> Iterator[Finding]:
    def opened(polarity: MaskPolarity) -> IrregularMasks:
        return open_masks(root, part, polarity=polarity)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", KDInpaintWarning)
        yield from check_masks(
            root, name, polarity=polarity, open_masks=opened, archive=find_archive(root, part), look_at=look_at
        )
    for warning in said:
        yield Finding("warning", f"{name}: {warning.message}")


def _costs(proposal: Proposal, found: Estimate, milliseconds: float) -> Iterator[Finding]:
    config = proposal.config
    name = torch.cuda.get_device_name(found.device) if found.device.type == "cuda" else "this CPU"
    how = ", scaled from one image" if found.scaled else ""
    teacher, student = config.teacher.optim, config.student.optim
    yield Finding(
        "ok",
        f"time: about {duration(found.total)} on {name} ({proposal.preset or config.model}: {teacher.steps:,} steps of "
        f"the teacher of {found.teacher:.2g} s, {student.steps:,} of the student of {found.student:.2g} s{how})",
    )
    units = (("an hour", 3600), ("a day", 86400), ("a week", 604800))
    shares = [(unit, seconds / found.total) for unit, seconds in units]
    shortest = 50 / (teacher.steps + student.steps)  # shorter runs learn nothing
    budget = parse_budget(proposal.budget)
    fits = ", ".join(f"{_percent(budget * share)} for {unit}" for unit, share in shares if shortest < share < 1)
    if fits and proposal.preset is not None:
        yield Finding("ok", f"time: --budget {fits}")
    yield _memory(found)
    needed = student.batch / found.student * milliseconds / 1000
    workers = config.runtime.workers
    if needed > max(workers, 1):
        advice = f"Train with --runtime.workers {int(needed) + 1}."
        yield Finding("warning", f"data: {needed:.1f} processes must decode to keep up; there are {workers}. {advice}")
    elif needed == needed:  # a number: something was decoded
        yield Finding("ok", "data: decoding keeps up with the training")


def _memory(found: Estimate) -> Finding:
    total = torch.cuda.get_device_properties(found.device).total_memory if found.device.type == "cuda" else None
    text = f"memory: about {found.memory / 2**30:.1f} GiB of tensors"
    if total is not None and found.memory > 0.9 * total:
        advice = "Take a smaller batch, or --mixed-precision bf16."
        return Finding("warning", f"{text}, and the device has {total / 2**30:.1f}. {advice}")
    return Finding("ok", text)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def duration(seconds: float) -> str:
    """A time span as people say it: 40 s, 12 min, 5.0 h, 9.3 days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
