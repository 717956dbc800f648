"""The picture of what encoders know inside the hole, for cells of an ablation that still has its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.ablation.networks import LeadingChannels
from kdinpaint.ablation.timm_teacher import TIMM_FILE
from kdinpaint.ablation.values import near
from kdinpaint.data import PairManifest, common_folder
from kdinpaint.models import AutoEncoder, InpaintingNet, load_model
from kdinpaint.training.figures import write_feature_figure

__all__ = ["draw_features"]


def draw_features(
    content: Mapping[str, Any],
    work: Path,
    held_out: Sequence[Path],
    path: Path,
    *,
    cells: Sequence[str] = (),
    seed: int | None = None,
    level: int = 0,
) -> dict[str, list[float]]:
    """An encoder channel of the teacher and of some cells' students side by side; see `write_feature_figure`.

    Args:
        content: Of a result file.
        work: The folder that the ablation ran in; it holds the weights.
        held_out: The photos it was measured on.
        path: Of the PNG.
        cells: Which cells; all that are done by default.
        seed: Which seed; the first by default.
        level: Which encoder level, from 0.

    Returns:
        For each cell the relative hole gap of every level, a mean over single pairs.

    Raises:
        ConfigError: There is no such cell or seed, or the cells had different teachers.
        DataError: The photos are not those of the manifest, or the folder is not that of the ablation.
        WeightsError: The weights are gone.
    """
    key = str(content["seeds"][0] if seed is None else seed)
    done = [name for name, runs in content["results"].items() if key in runs]
    for name in cells:
        if name not in done:
            raise ConfigError(f"cell {name!r} has no result for seed {key}; {near(name, done)}")
    chosen = list(cells) or done
    teachers = {content["results"][name][key]["teacher"] for name in chosen}
    if len(teachers) != 1:
        raise ConfigError(
            f"{', '.join(chosen) or 'no cells'} have {len(teachers)} teachers; choose cells that share one."
        )
    folder = work / "teachers" / teachers.pop()
    if (folder / TIMM_FILE).exists():
        raise ConfigError(
            f"{', '.join(chosen)} were taught by an encoder of timm, whose channels "
            f"are not the student's; choose cells that share an autoencoder."
        )
    manifest = PairManifest.load(work / "manifest.json")
    if manifest.hash != content["manifest"]:
        raise DataError(f"{work} holds another manifest than the result; pass the folder that the ablation ran in.")
    students = {name: cast(InpaintingNet, load_model(work / "cells" / name / key / "student")) for name in chosen}
    teacher = cast(AutoEncoder, load_model(folder / "teacher"))
    pairs = manifest.pairs(common_folder(list(held_out)), channels=teacher.in_channels)
    widths = next(iter(students.values())).channels
    return write_feature_figure(path, LeadingChannels(teacher, widths).encode, students, pairs, level=level)
