"""Networks of a cell: equal weights wherever two cells have the same layer, and sizes that match on request."""

import bisect
import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError, KDInpaintWarning
from kdinpaint.ablation.grids import Grid
from kdinpaint.ablation.settings import CellSettings
from kdinpaint.models import AttentionMap, AutoEncoder, InpaintingNet, create_model
from kdinpaint.models.decoder import Decoder

__all__ = ["LeadingChannels", "make_student", "make_teacher", "match_sizes", "parameters_of"]


class LeadingChannels(nn.Module):
    """A teacher whose levels are cut to the leading channels, those a narrower student imitates.

    Args:
        teacher: The autoencoder.
        channels: Of each level of the student.
    """

    def __init__(self, teacher: AutoEncoder, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.teacher, self.channels = teacher, channels

    def encode(self, image: Tensor) -> list[Tensor]:
        """As `AutoEncoder.encode`."""
        return self._cut(self.teacher.encode(image))

    def attend(self, image: Tensor) -> tuple[list[Tensor], AttentionMap]:
        """As `AutoEncoder.attend`."""
        features, attention = self.teacher.attend(image)
        return self._cut(features), attention

    @property
    def decoder(self) -> Decoder:
        """The teacher's."""
        return self.teacher.decoder

    def _cut(self, features: list[Tensor]) -> list[Tensor]:
        return [f[:, :width] for f, width in zip(features, self.channels, strict=True)]


def make_student(settings: CellSettings, seed: int) -> InpaintingNet:
    """The fresh student. A layer's weights depend on the seed, its name and its shape alone.

    Raises:
        ConfigError: The network does not accept the options, or has other levels than its distillation.
    """
    net = _student(settings)
    _draw_weights(net, seed)
    return net


def _student(settings: CellSettings) -> InpaintingNet:
    filler = {} if settings.student.filler == "model" else {"filler": settings.student.filler}
    try:
        net = create_model(settings.model, in_channels=settings.data.channels, **filler, **settings.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{settings.model} with {dict(settings.options)} cannot be built: {error}") from error
    student = cast(InpaintingNet, net)
    settings.student.distill.check_levels(len(student.channels))
    if settings.teacher.kind == "timm" and settings.student.init != "scratch":
        raise ConfigError(
            f"student.init is {settings.student.init!r} and teacher.kind 'timm', whose weights do not fit the student; "
            f"expected student.init=scratch."
        )
    return student


def make_teacher(settings: CellSettings, seed: int) -> AutoEncoder:
    """The fresh teacher that fits the student of the settings."""
    with torch.device("meta"):
        built = _student(settings).configuration()
    channels = list(built["channels"])
    if settings.teacher.code_channels is not None:
        channels[-1] = settings.teacher.code_channels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KDInpaintWarning)  # an over-complete one is asked for
        net = AutoEncoder(
            settings.data.channels,
            channels,
            blocks=built.get("blocks", 1),
            head_channels=built.get("head_channels", 16),
            attention="fuse" if settings.teacher.attention else None,
        )
    _draw_weights(net, seed)
    return net


@torch.no_grad()
def _draw_weights(net: nn.Module, seed: int) -> None:
    """Draw every layer again, each from a generator seeded by (seed, name); what is constant when fresh stays."""
    constants = {id(p): p.clone() for p in net.parameters() if bool((p == p.flatten()[0]).all())}
    for name, layer in net.named_modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int.from_bytes(digest[:7], "big"))
                reset()
    for parameter in net.parameters():
        if id(parameter) in constants:
            parameter.copy_(constants[id(parameter)])


def parameters_of(settings: CellSettings) -> int:
    """Number of parameters of the student, without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in _student(settings).parameters())


def match_sizes(grid: Grid, resolved: Mapping[str, CellSettings]) -> dict[str, CellSettings]:
    """The settings of every cell, those with `match` scaled to the nearest number of parameters."""
    return {
        cell.name: resolved[cell.name]
        if cell.match is None
        else _scaled(resolved[cell.name], cell.scale, parameters_of(resolved[cell.match]))
        for cell in grid.cells
    }


def _scaled(settings: CellSettings, scale: str, wanted: int) -> CellSettings:
    with torch.device("meta"):
        channels = list(_student(settings).channels)

    def at(percent: int) -> CellSettings:
        value: Any = (
            [max(1, round(c * percent / 100)) for c in channels] if scale == "model.channels" else percent / 200
        )
        return replace(settings, options={**settings.options, scale.removeprefix("model."): value})

    place = bisect.bisect_left(range(10, 601), wanted, key=lambda percent: parameters_of(at(percent)))
    near = [at(percent) for percent in (place + 9, place + 10) if 10 <= percent <= 600]
    return min(near, key=lambda candidate: abs(parameters_of(candidate) - wanted))
