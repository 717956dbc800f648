"""A timm encoder as the teacher of a cell: the levels that have the student's strides, kept on disk for all cells."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError, KDInpaintError, WeightsError
from kdinpaint._core.files import atomic_path
from kdinpaint.ablation.settings import CellSettings
from kdinpaint.retrofitting import TimmTeacher

__all__ = ["TIMM_FILE", "TimmLevels", "load_timm", "make_timm", "save_timm"]

TIMM_FILE = "timm.safetensors"
"""In the folder of a teacher."""


class TimmLevels(nn.Module):
    """The features of a timm encoder at the strides 2, 4, ..., one for each level of a student.

    Args:
        encoder: Gives features of all its levels.
        levels: Of the student.

    Attributes:
        feature_channels: Channels of each of these features.

    Raises:
        ConfigError: The encoder lacks one of the strides.
    """

    def __init__(self, encoder: TimmTeacher, levels: int) -> None:
        super().__init__()
        wanted = [2 ** (level + 1) for level in range(levels)]
        if not set(wanted) <= set(encoder.strides):
            raise ConfigError(
                f"the encoder has features of stride {', '.join(map(str, encoder.strides))}, and the student's levels "
                f"have {', '.join(map(str, wanted))}; choose an encoder of timm that has them all, such as resnet18."
            )
        self.encoder = encoder
        self.places = [encoder.strides.index(stride) for stride in wanted]
        self.feature_channels = tuple(encoder.feature_channels[place] for place in self.places)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of an image (B, C, H, W) in [0, 1], shallow to deep."""
        features = self.encoder(image)
        return [features[place] for place in self.places]


def make_timm(settings: CellSettings, levels: int, seed: int, *, pretrained: bool) -> TimmLevels:
    """The teacher that `settings.teacher` names.

    Args:
        settings: Of a cell.
        levels: Of its student.
        seed: Of fresh weights.
        pretrained: With the weights that timm has, downloaded unless they are at hand; else fresh ones.

    Raises:
        ConfigError: timm has no such encoder, or it does not fit the student.
        WeightsError: The weights cannot be had.
    """
    name = settings.teacher.timm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            encoder = TimmTeacher(name, pretrained=pretrained, in_channels=settings.data.channels)
        except KDInpaintError:
            raise
        except Exception as error:  # of the network or the hub, whichever way timm went
            raise WeightsError(
                f"timm cannot get the weights of {name} ({type(error).__name__}: {error}). Connect to the network "
                f"once, after which they are kept, or make a dry run with teacher.pretrained=false."
            ) from error
    return TimmLevels(encoder, levels)


def save_timm(teacher: TimmLevels, folder: Path) -> None:
    """Write the weights, so that cells need no network."""
    with atomic_path(folder / TIMM_FILE) as path:
        save_file({name: value.contiguous() for name, value in teacher.encoder.module.state_dict().items()}, path)


def load_timm(settings: CellSettings, levels: int, folder: Path) -> TimmLevels:
    """The teacher with the weights that `save_timm` wrote."""
    teacher = make_timm(settings, levels, 0, pretrained=False)
    teacher.encoder.module.load_state_dict(load_file(folder / TIMM_FILE))
    return teacher
