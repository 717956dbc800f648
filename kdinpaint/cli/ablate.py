"""`kdinpaint ablate GRID` and `kdinpaint ablate-report RESULT`: what each part of the method is worth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kdinpaint._core.command_line import command_line
from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.files import make_folder, write_text
from kdinpaint.ablation import AblationPlan, CellSettings, change, load_grid, report, run_ablation
from kdinpaint.ablation.run import write_result
from kdinpaint.ablation.values import parse_assignment
from kdinpaint.data import demo_photos, list_images

__all__ = ["AblateConfig", "ReportConfig", "command", "report_command", "run_grid"]


@dataclass(frozen=True)
class AblateConfig:
    """Train every cell of a grid with every seed, in pairs, and measure all on one frozen list.

    Interrupted, the same command goes on; cells that are done stay done. More seeds or cells may be added to a result:
    repeat the command with others and the same --out.
    """

    grid: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="GRID")]
    """parts, factorial, capacity, adaptive_conv, importance, init, forcing, forms, aligner, where, deepest, self,
    decoder, teacher, pretrained, or a .toml file."""
    out: Path
    """The result file (JSON)."""
    photos: Path | None = None
    """Folder of training photos; the few inside scikit-image by default."""
    held_out: Path | None = None
    """Folder of photos to measure on; needed with --photos."""
    masks: Path | None = None
    """Folder of mask files to measure under; generated masks by default."""
    polarity: Literal["auto", "hole", "known"] = "auto"
    """What white means in the mask files."""
    manifest: Path | None = None
    """Measure on exactly these pairs (a manifest.json of the same held-out photos)."""
    per_bin: int = 50
    """Pairs in each hole-ratio bin."""
    model: str = "kdinpaint_tiny"
    """The student that cells vary."""
    cells: tuple[str, ...] = ()
    """Only these cells, by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    size: int = 64
    """Side of crops and pairs, pixels."""
    steps: int = 1500
    """Optimiser steps of each student."""
    teacher_steps: int = 1000
    """Optimiser steps of each teacher."""
    batch: int = 12
    """Images a step."""
    lr: float = 1e-3
    """Learning rate; it falls along a cosine."""
    holes: Literal["mixed", "strokes", "boxes"] = "mixed"
    """Shapes of training masks, and of generated masks to measure under."""
    set: tuple[str, ...] = ()
    """Further settings of all cells as NAME=VALUE, for example student.distill.importance=uniform data.recolor=true."""
    jobs: int = 1
    """Processes at a time."""
    device: Literal["auto", "cpu"] = "auto"
    """cpu keeps off a GPU."""
    eval_every: int = 100
    """Steps between points of the learning curves; 0 for none."""
    eval_pairs: int = 48
    """Pairs that these points are measured on."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    mask_pool: int = 4096
    """Training masks that are kept on the device."""
    work: Path | None = None
    """Folder of checkpoints and single results; beside the result file by default."""


@dataclass(frozen=True)
class ReportConfig:
    """Tables and pictures of a result file."""

    result: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULT")]
    reference: str | None = None
    """The cell that differences are taken from; the grid's own by default."""
    out: Path | None = None
    """Write the tables to this file instead of the terminal."""
    figures: Path | None = None
    """Also draw pictures into this folder."""
    features: Path | None = None
    """Also draw what the encoders know inside the hole into this PNG; needs the folder of the ablation."""
    cells: tuple[str, ...] = ()
    """Cells of that picture; all by default."""
    seed: int | None = None
    """Seed of that picture; the first by default."""
    held_out: Path | None = None
    """Folder of the photos that were measured on; those inside scikit-image by default."""
    work: Path | None = None
    """Folder of the ablation; beside the result file by default."""


def command(config: Annotated[AblateConfig, tyro.conf.arg(name="")]) -> None:
    """Measure what each part of the method is worth: a grid of variants, trained in pairs."""
    content = run_grid(config)
    print(report(content))
    print(f"Results: {config.out}. Tables and pictures: kdinpaint ablate-report {config.out} --figures DIR")


def report_command(config: Annotated[ReportConfig, tyro.conf.arg(name="")]) -> None:
    """Tables, with paired differences and intervals, and pictures of an ablation."""
    try:
        content = json.loads(config.result.read_text(encoding="utf-8"))
        text = report(content, reference=config.reference)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError | DataError):
            raise
        raise DataError(
            f"{config.result} is not the result of an ablation ({type(error).__name__}: {error})."
        ) from error
    if config.out is None:
        print(text)
    else:
        write_text(config.out, text)
    if config.figures is not None:
        from kdinpaint.ablation.figures import draw_figures  # brings matplotlib

        for path in draw_figures(content, config.figures, name=config.result.stem, reference=config.reference):
            print(path)
    if config.features is not None:
        from kdinpaint.ablation.features import draw_features

        held_out = demo_photos().held_out if config.held_out is None else list_images(config.held_out)
        work = config.work or _work(config.result)
        draw_features(content, work, held_out, config.features, cells=config.cells, seed=config.seed)
        print(config.features)


def _work(result: Path) -> Path:
    return result.with_name(result.stem + ".work")


def run_grid(config: AblateConfig) -> dict[str, Any]:
    """Do the work and write the result file; returns what it holds."""
    grid = load_grid(config.grid)
    photos, held_out = _photos(config)
    make_folder(config.out.parent)
    plan = AblationPlan(
        grid=grid,
        base=_base(config),
        photos=photos,
        held_out=held_out,
        work=config.work or _work(config.out),
        seeds=config.seeds,
        masks=config.masks,
        polarity=config.polarity,
        per_bin=config.per_bin,
        manifest=config.manifest,
        mask_pool=config.mask_pool,
        device=config.device,
        jobs=config.jobs,
        checkpoint_every=config.checkpoint_every,
        eval_every=config.eval_every,
        eval_pairs=config.eval_pairs,
        cells=config.cells,
        adds_to=config.out,
    )
    found = run_ablation(plan)
    # The command for all that the file now holds, which may be more than this call ran.
    names = tuple(cell["name"] for cell in found["grid"]["cells"])
    whole = replace(config, seeds=tuple(found["seeds"]), cells=() if len(names) == len(grid.cells) else names)
    name = Path(config.grid).name if config.grid.endswith(".toml") else config.grid
    line = command_line(f"kdinpaint ablate {name}", whole, leave_out=("grid", "out", "work", "jobs"))
    content = {"command": f"{line} --out {config.out.name}", **found}
    write_result(content, config.out)
    return content


def _photos(config: AblateConfig) -> tuple[Sequence[Path], Sequence[Path]]:
    if (config.photos is None) != (config.held_out is None):
        raise ConfigError("--photos and --held-out go together: one folder to train on and one to measure on.")
    if config.photos is None or config.held_out is None:
        bundled = demo_photos()
        return bundled.train, bundled.held_out
    return list_images(config.photos), list_images(config.held_out)


def _base(config: AblateConfig) -> CellSettings:
    """The settings that all cells start from: options of their own first, then --set."""
    settings = change(CellSettings(), "model", config.model)
    student = {"batch": config.batch, "lr": config.lr}
    values: dict[str, Any] = {"data.size": config.size, "data.holes": config.holes}
    values |= {f"{who}.optim.{name}": value for who in ("student", "teacher") for name, value in student.items()}
    values |= {"student.optim.steps": config.steps, "teacher.optim.steps": config.teacher_steps}
    for name, value in [*values.items(), *map(parse_assignment, config.set)]:
        settings = change(settings, name, value)
    if settings.student.optim.steps < 1 or settings.teacher.optim.steps < 1 or settings.data.size < 16:
        raise ConfigError(
            f"steps are {settings.student.optim.steps} and {settings.teacher.optim.steps} and the size "
            f"{settings.data.size}; expected at least 1 step and 16 pixels."
        )
    return replace(settings)
