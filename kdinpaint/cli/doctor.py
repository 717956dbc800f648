"""`kdinpaint doctor`: is this data ready, and what will a run take here?"""

import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
import tyro

from kdinpaint._core.errors import KDInpaintError, KDInpaintWarning
from kdinpaint.cli.estimate import Estimate, estimate_run
from kdinpaint.data import CelebA, ParisStreetView, Places2, StoredPhotos, open_store
from kdinpaint.data.checkup import Finding, check_masks, check_photos, guess_dataset
from kdinpaint.data.irregular_masks import find_archive
from kdinpaint.training import DataConfig
from kdinpaint.training.config import DatasetName
from kdinpaint.training.presets import Preset, find_preset, parse_budget
from kdinpaint.training.sources import open_dataset, open_masks, split_photos

__all__ = ["DoctorConfig", "command", "examine"]

_PRESETS = {"celeba": "paper-celeba", "paris": "paper-paris"}
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
    """What is to be trained; the paper's preset for the data set by default."""
    budget: str = "1"
    """Share of the preset's iterations, such as 0.01 or 1%."""
    look_at: int | None = 200
    """Photos and masks to decode of each part, evenly spaced; None for all."""
    time: bool = True
    """Take a few training steps to estimate time and memory."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu keeps off a GPU."""


def command(config: Annotated[DoctorConfig, tyro.conf.arg(name="")]) -> None:
    """Check data and masks, and estimate time and memory, before a long run."""
    ready = True
    for finding in examine(config):
        print(f"{_MARKS[finding.level]}  {finding.text}", flush=True)
        ready = ready and finding.level != "error"
    if not ready:
        print("\nTraining cannot start: see the lines marked STOP.")
        sys.exit(1)
    print(f"\nTraining can start:\n  {_training_command(config)}")


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Look at everything that a configuration names, finding by finding."""
    preset = find_preset(config.preset or "paper-celeba", parse_budget(config.budget))
    try:
        dataset = config.dataset or guess_dataset(config.data)
        yield Finding("ok", f"{config.data}: {dataset or 'a folder of photos'}")
        preset = _preset(config, dataset)
        parts = _parts(config.data, preset.data)
    except KDInpaintError as error:
        yield Finding("error", str(error))
        return
    milliseconds = float("nan")
    for part, photos, expected, min_side in parts:
        check = check_photos(photos, part, expected=expected, min_side=min_side, look_at=config.look_at)
        yield from check.findings
        milliseconds = check.milliseconds if part == "train" else milliseconds
    if config.masks is not None:
        yield from _masks(config, config.masks)
    if config.time:
        yield from _costs(preset, estimate_run(preset, device=config.device), milliseconds, parse_budget(config.budget))


def _preset(config: DoctorConfig, dataset: str | None) -> Preset:
    name = config.preset or _PRESETS.get(dataset or "", "paper-places2")
    preset = find_preset(name, parse_budget(config.budget))
    return replace(preset, data=replace(preset.data, dataset=cast(DatasetName | None, dataset)))


def _parts(root: Path, data: DataConfig) -> list[tuple[str, StoredPhotos, int | None, int]]:
    """Name, photos, published number and smallest side of each part of a data set."""
    if data.dataset is None:
        split_photos(root, every=20)  # says what is wrong with a folder that cannot be trained on
        return [("train", StoredPhotos(open_store(root), channels=data.channels), None, data.size)]
    train = open_dataset(root, data, "train")
    if data.dataset == "shards":
        return [("train", train, None, data.size)]
    test = open_dataset(root, data, "test")
    if data.dataset == "celeba":
        counts, min_side = (CelebA.COUNTS["train"], CelebA.COUNTS["test"]), 178
    elif data.dataset == "paris":
        counts, min_side = (ParisStreetView.COUNTS["train"], ParisStreetView.COUNTS["test"]), data.size
    else:
        variant = "challenge" if "challenge" in data.dataset else "standard"
        counts, min_side = (Places2.COUNTS[variant], Places2.COUNTS["val"]), data.size
    test.files()  # evaluation pins files, and says so where there are none
    return [("train", train, counts[0], min_side), ("test", test, counts[1], min_side)]


def _masks(config: DoctorConfig, root: Path) -> Iterator[Finding]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", KDInpaintWarning)
        yield from check_masks(
            root,
            "masks",
            polarity=config.polarity,
            open_masks=lambda polarity: open_masks(root, polarity=polarity),
            archive=find_archive(root, "train"),
            look_at=config.look_at,
        )
    for warning in said:
        yield Finding("warning", f"masks: {warning.message}")


def _costs(preset: Preset, found: Estimate, milliseconds: float, budget: float) -> Iterator[Finding]:
    name = torch.cuda.get_device_name(found.device) if found.device.type == "cuda" else "this CPU"
    how = ", scaled from one image" if found.scaled else ""
    teacher, student = preset.teacher.optim, preset.student.optim
    yield Finding(
        "ok",
        f"time: about {duration(found.total)} on {name} ({preset.name}: {teacher.steps:,} steps of the teacher of "
        f"{found.teacher:.2g} s, {student.steps:,} of the student of {found.student:.2g} s{how})",
    )
    units = (("an hour", 3600), ("a day", 86400), ("a week", 604800))
    shares = [(unit, seconds / found.total) for unit, seconds in units]
    shortest = 50 / (teacher.steps + student.steps)  # shorter runs learn nothing
    fits = ", ".join(f"{_percent(budget * share)} for {unit}" for unit, share in shares if shortest < share < 1)
    if fits:
        yield Finding("ok", f"time: --budget {fits}")
    yield _memory(found)
    needed = student.batch / found.student * milliseconds / 1000
    if needed > max(preset.runtime.workers, 1):
        advice = f"Pass --runtime.workers {int(needed) + 1}."
        text = f"data: {needed:.1f} processes must decode to keep up; there are {preset.runtime.workers}. {advice}"
        yield Finding("warning", text)
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


def _training_command(config: DoctorConfig) -> str:
    dataset = config.dataset or guess_dataset(config.data)
    words = ["kdinpaint train"]
    if dataset in _PRESETS or (dataset or "").startswith("places2") or config.preset:
        words += [f"--preset {_preset(config, dataset).name}"]
        words += [f"--budget {config.budget}"] if config.budget != "1" else []
    words += [f"--photos {config.data} --out runs/{dataset or 'mine'}"]
    if dataset and dataset not in ("celeba", "paris", "places2"):
        words += [f"--data.dataset {dataset}"]
    if config.masks is not None:
        words += [f"--data.masks {config.masks}"]
        # The raw training masks are varied at random, which an evaluation must not be.
        words += [] if find_archive(config.masks, "test") == "train" else [f"--evaluation.masks {config.masks}"]
    return " ".join(words)
