"""An ablation: every cell of a grid with every seed, resumable, and one JSON file with everything in it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdinpaint._core.errors import ConfigError, KDInpaintError
from kdinpaint._core.files import make_folder, write_text
from kdinpaint.ablation.additions import add_to, check_addition, load_result
from kdinpaint.ablation.cell import CellTask, Settled, TeacherTask
from kdinpaint.ablation.grids import Grid
from kdinpaint.ablation.networks import make_student, make_teacher, match_sizes, parameters_of
from kdinpaint.ablation.settings import CellSettings
from kdinpaint.ablation.timm_teacher import make_timm
from kdinpaint.ablation.workers import run_tasks
from kdinpaint.data import (
    MaskFolder,
    MaskGenerator,
    PairManifest,
    PhotoFolder,
    ResidentData,
    common_folder,
)
from kdinpaint.training.claim import claim_folder, fingerprint
from kdinpaint.training.environment import environment

__all__ = ["AblationPlan", "run_ablation", "write_result"]


@dataclass(frozen=True)
class AblationPlan:
    """What `run_ablation` does with a grid.

    Attributes:
        grid: The cells.
        base: The settings that cells differ from.
        photos: Training photos.
        held_out: Photos to measure on.
        work: Folder for checkpoints and results of single cells; the same folder goes on with what is there.
        seeds: Each trains every cell.
        masks: Folder of mask files to measure under; generated masks by default.
        polarity: Of these files.
        per_bin: Pairs in each hole-ratio bin.
        manifest: Measure on exactly these pairs instead (a file).
        mask_pool: Number of training masks that are kept on the device.
        device: "auto" or "cpu".
        jobs: Processes at a time.
        checkpoint_every: Steps.
        eval_every: Steps between points of the learning curves; 0 for none.
        eval_pairs: Pairs that these points are measured on.
        cells: Only these cells of the grid, by name, and those they match in size; all by default.
        adds_to: A result file. What it holds of the same grid, pairs, photos and settings becomes part of the result.
    """

    grid: Grid
    base: CellSettings
    photos: Sequence[Path]
    held_out: Sequence[Path]
    work: Path
    seeds: Sequence[int] = (0, 1, 2)
    masks: Path | None = None
    polarity: Literal["auto", "hole", "known"] = "auto"
    per_bin: int = 50
    manifest: Path | None = None
    mask_pool: int = 4096
    device: Literal["auto", "cpu"] = "auto"
    jobs: int = 1
    checkpoint_every: int = 500
    eval_every: int = 100
    eval_pairs: int = 48
    cells: Sequence[str] = ()
    adds_to: Path | None = None

    @property
    def chosen(self) -> Grid:
        """The grid with the cells that are run."""
        return self.grid.select(self.cells)


def run_ablation(plan: AblationPlan) -> dict[str, Any]:
    """Train and measure every cell with every seed.

    For one seed all cells see the same teacher, the same windows, holes and order, and start from the same weights
    wherever two have the same layer. Each is measured, with averaged weights, on one frozen manifest. Interrupted, the
    same call goes on, to the same result, and cells that are done stay done. A cell that fails costs no other.

    Args:
        plan: Everything.

    Returns:
        The content of a result file: what was run, where, on what, scores of every cell and seed, and failures.

    Raises:
        ConfigError: The grid does not fit, or the result file to add to is of something else; nothing was run.
        DataError: No usable photos.
        KDInpaintError: Every cell failed.
        KeyboardInterrupt: After Ctrl-C, with everything on disk.
    """
    if len(set(plan.seeds)) != len(plan.seeds) or not plan.seeds or min(plan.seeds) < 0 or plan.jobs < 1:
        raise ConfigError(f"seeds are {list(plan.seeds)} and jobs {plan.jobs}; expected distinct seeds, and jobs >= 1.")
    before = load_result(plan.adds_to)
    settings = match_sizes(plan.chosen, plan.chosen.resolve(plan.base))
    sizes = {name: parameters_of(one) for name, one in settings.items()}
    for one in settings.values():
        if one.teacher.kind == "timm":
            make_timm(one, len(make_student(one, 0).channels), 0, pretrained=False)  # an error comes before any work
    make_folder(plan.work)
    manifest = _manifest(plan)
    shared = Settled(
        manifest=plan.work / "manifest.json",
        held_out=common_folder(list(plan.held_out)),
        fingerprint={"photos_sha256": fingerprint(plan.photos), "manifest": manifest.hash},
        device=plan.device,
        checkpoint_every=plan.checkpoint_every,
        eval_every=plan.eval_every,
        eval_pairs=plan.eval_pairs,
    )
    facts = _facts(plan, shared.fingerprint)
    if before is not None:
        check_addition(before, facts, plan.grid, plan.base, str(plan.adds_to))
    teachers, cells = _tasks(plan, settings, shared)
    for task in cells:
        if task.done:
            claim_folder(task.folder, task.content())  # results of other settings must not slip in
    _prepare_data(plan, [task for task in cells if not task.done])
    failures = run_tasks(teachers, jobs=plan.jobs)
    lost = {task.folder: failures[task.name] for task in teachers if task.name in failures}
    failures = {task.name: f"its teacher failed: {lost[task.teacher]}" for task in cells if task.teacher in lost}
    failures |= run_tasks([task for task in cells if task.name not in failures], jobs=plan.jobs)
    if len(failures) == len(cells):
        raise KDInpaintError(f"every cell failed; the first: {next(iter(failures.values()))}")
    now = {**facts, **_collect(plan, settings, sizes, manifest, cells, failures)}
    return now if before is None else add_to(before, now, plan.grid, [task.name for task in cells])


def _manifest(plan: AblationPlan) -> PairManifest:
    """The frozen pairs; those of an earlier call if there are any."""
    path = plan.work / "manifest.json"
    if plan.manifest is not None:
        given = PairManifest.load(plan.manifest)
        if path.exists() and PairManifest.load(path).hash != given.hash:
            raise ConfigError(f"{plan.work} was measured on other pairs than {plan.manifest}; choose another folder.")
        given.save(path)
    elif not path.exists():
        size = plan.base.data.size
        masks = (
            MaskGenerator(plan.base.data.holes)
            if plan.masks is None
            else MaskFolder(plan.masks, polarity=plan.polarity)
        )
        windows = max(1, -(-6 * plan.per_bin // max(len(plan.held_out), 1)))
        PairManifest.build(
            list(plan.held_out), size=size, masks=masks, per_bin=plan.per_bin, seed=0, windows_per_photo=windows
        ).save(path)
    return PairManifest.load(path)


def _key(*parts: Any) -> str:  # noqa: ANN401 - anything that JSON can hold
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _tasks(
    plan: AblationPlan, settings: Mapping[str, CellSettings], shared: Settled
) -> tuple[list[TeacherTask], list[CellTask]]:
    """Seed by seed, so that the first seed's table is complete before the second begins."""
    teachers: dict[Path, TeacherTask] = {}
    cells = []
    for seed in plan.seeds:
        for name, one in settings.items():
            plain = one.plain()
            data = plan.work / "data" / f"{_key(plain['data'], plan.mask_pool, shared.fingerprint, seed)}.pt"
            built = make_teacher(one, seed).configuration()
            key = _key(plain["teacher"], plain["data"], plain["mixed_precision"], built, shared.fingerprint)
            folder = plan.work / "teachers" / f"seed-{seed}-{key}"
            label = f"teacher {key[:4]}, seed {seed}"
            teachers.setdefault(folder, TeacherTask(label, seed, one, data, folder, shared))
            cells.append(
                CellTask(
                    f"{name}, seed {seed}",
                    name,
                    seed,
                    one,
                    data,
                    folder,
                    plan.work / "cells" / name / str(seed),
                    shared,
                )
            )
    needed = {task.teacher for task in cells if not task.done}
    return [task for folder, task in teachers.items() if folder in needed], cells


def _prepare_data(plan: AblationPlan, tasks: Sequence[CellTask]) -> None:
    """Photos and masks on disk as the device will hold them, once for all cells of a seed."""
    for task in tasks:
        if task.data.exists():
            continue
        data = task.settings.data
        photos = PhotoFolder(
            list(plan.photos), channels=data.channels, min_size=data.size, on_error=data.on_error, cache_bytes=0
        )
        ResidentData.make(
            photos,
            MaskGenerator(data.holes, ratio=data.hole_ratio),
            size=data.size,
            min_window=data.min_window,
            pool=plan.mask_pool,
            seed=task.seed,
        ).save(task.data)


def _facts(plan: AblationPlan, same: Mapping[str, str]) -> dict[str, Any]:
    """What all cells of a result have in common besides their settings."""
    return {
        **same,
        "photos": {"train": len(plan.photos), "held_out": len(plan.held_out)},
        "mask_pool": plan.mask_pool,
        "curves": {"every": plan.eval_every, "pairs": plan.eval_pairs},
    }


def _collect(
    plan: AblationPlan,
    settings: Mapping[str, CellSettings],
    sizes: Mapping[str, int],
    manifest: PairManifest,
    tasks: Sequence[CellTask],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    grid = plan.chosen
    results: dict[str, dict[str, Any]] = {cell.name: {} for cell in grid.cells}
    for task in tasks:
        if task.done:
            results[task.cell][str(task.seed)] = json.loads(task.result.read_text(encoding="utf-8"))
    return {
        "grid": {
            "name": grid.name,
            "question": grid.question,
            "reference": grid.reference,
            "cells": [
                {
                    "name": cell.name,
                    "overrides": dict(cell.overrides),
                    "match": cell.match,
                    "factors": dict(cell.factors),
                    "parameters": sizes[cell.name],
                    "settings": settings[cell.name].json(),
                }
                for cell in grid.cells
            ],
        },
        "seeds": list(plan.seeds),
        "ratio": [round(entry.ratio, 6) for entry in manifest.entries],
        "image": [entry.image for entry in manifest.entries],
        "environment": environment(),
        "device": plan.device,
        "results": results,
        "failures": dict(failures),
    }


def write_result(content: Mapping[str, Any], path: Path) -> None:
    """Write a result file, atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")
