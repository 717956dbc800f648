"""The run that data and masks suggest: one configuration, and the command that starts it."""

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from kdinpaint._core.errors import ConfigError
from kdinpaint.data.checkup import guess_dataset
from kdinpaint.data.irregular_masks import find_archive
from kdinpaint.training import TrainConfig
from kdinpaint.training.config import DatasetName
from kdinpaint.training.presets import find_preset, parse_budget

__all__ = ["Proposal", "propose"]

_PRESETS = {"celeba": "paper-celeba", "paris": "paper-paris"}


@dataclass(frozen=True)
class Proposal:
    """A run.

    Attributes:
        config: Of the run.
        preset: Where its defaults come from; None for those of `TrainConfig`.
        budget: Share of the preset's iterations, as it was written.
    """

    config: TrainConfig
    preset: str | None
    budget: str

    @property
    def command(self) -> str:
        """What starts it."""
        config = self.config
        words = ["kdinpaint", "train"]
        if self.preset is not None:
            words += ["--preset", self.preset] + (["--budget", self.budget] if self.budget != "1" else [])
        words += ["--photos", str(config.photos), "--out", str(config.out)]
        return shlex.join([*words, *_changed(config, _defaults(self.preset, self.budget, config.photos, config.out))])


def propose(
    photos: Path,
    *,
    masks: Path | None,
    polarity: Literal["auto", "hole", "known"],
    dataset: DatasetName | None,
    preset: str | None,
    budget: str,
    size: int | None,
    evaluation_photos: Path | None,
) -> Proposal:
    """The run for what is there: the paper's preset for its data sets, the defaults of `TrainConfig` for other photos.

    Args:
        photos: The data set.
        masks: Mask files to evaluate with. Of the NVIDIA archives each is for its own part; other files do not train,
            so that no mask is measured with that was trained with.
        polarity: What white means in them.
        dataset: Which data set; found out from the layout by default.
        preset: Another preset.
        budget: Share of the preset's iterations.
        size: Side of the crops; that of the preset, or the default, if None.
        evaluation_photos: Held-out photos, where the data set has none of its own.

    Raises:
        DataError: There is no such folder.
        ConfigError: Unknown preset, or a budget that is no share or has no preset.
    """
    share = parse_budget(budget)
    if preset is not None:
        find_preset(preset)
    found = dataset or cast(DatasetName | None, guess_dataset(photos))
    if preset is None:
        preset = "paper-places2" if (found or "").startswith("places2") else _PRESETS.get(found or "")
    if preset is None and share != 1:
        raise ConfigError(
            f"--budget {budget} is a share of a preset's iterations, and {photos} is none of the paper's data sets. "
            f"Pass --preset paper-places2, say, or set --student.optim.steps when you train."
        )
    config = _defaults(preset, budget, photos, Path("runs") / (found or "mine"))
    data = replace(config.data, dataset=found, size=size or config.data.size)
    evaluation = replace(config.evaluation, photos=evaluation_photos)
    if masks is not None:
        if find_archive(masks, "train") == "train":
            data = replace(data, masks=masks, polarity=polarity)
        if find_archive(masks, "test") != "train":
            evaluation = replace(evaluation, masks=masks, polarity=polarity)
    return Proposal(replace(config, data=data, evaluation=evaluation), preset, budget)


def _defaults(preset: str | None, budget: str, photos: Path, out: Path) -> TrainConfig:
    if preset is None:
        return TrainConfig(photos=photos, out=out)
    return find_preset(preset, parse_budget(budget)).config(photos=photos, out=out)


def _changed(config: Any, base: Any, prefix: str = "--") -> Iterator[str]:  # noqa: ANN401 - any dataclass
    """Options, as words, for the fields in which a configuration differs."""
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(base, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _changed(value, default, name + ".")
        elif value != default:
            yield from (name, str(value))
