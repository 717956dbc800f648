"""Teachers made of any network: its named stages, or a timm encoder."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_feature
from kdinpaint._core.errors import ConfigError
from kdinpaint.distill.teacher import FrozenTeacher
from kdinpaint.retrofitting.layouts import guess_layout
from kdinpaint.retrofitting.report import Level
from kdinpaint.retrofitting.taps import Select, Taps

__all__ = ["ModuleTeacher", "TimmTeacher"]


class _Stages(nn.Module):
    """A network that returns the features of its stages instead of its output."""

    def __init__(self, net: nn.Module, levels: Sequence[str | Level], select: Mapping[str, Select] | None) -> None:
        super().__init__()
        self.net = net
        self.taps = Taps(net, levels, select=select)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.taps.run((image,), {}, size=(image.shape[-2], image.shape[-1]))[1]

    def extra_repr(self) -> str:
        """The stages, and how their features are read."""
        return repr(self.taps)


class ModuleTeacher(FrozenTeacher):
    """The named stages of any trained network, frozen, as a teacher.

    Args:
        module: The network; its forward pass takes an image. It is put into eval mode and frozen.
        levels: Dotted paths of the stages, shallow to deep, or `Level`s.
        example: An image (1, C, H, W) for a dry run that finds channels and layouts of stages given by path.
        select: Where a stage's feature is, see `Taps`.

    Attributes:
        feature_channels: Channels of each level.

    Raises:
        ConfigError: A stage that there is not, or paths without an example.
        ShapeError: A stage does not give a feature.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kdinpaint import ModuleTeacher
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1))
        >>> teacher = ModuleTeacher(net, ["0", "2"], example=torch.rand(1, 3, 16, 16))
        >>> [tuple(f.shape) for f in teacher(torch.rand(1, 3, 32, 32))]
        [(1, 8, 16, 16), (1, 16, 8, 8)]
    """

    def __init__(
        self,
        module: nn.Module,
        levels: Sequence[str | Level],
        *,
        example: Tensor | None = None,
        select: Mapping[str, Select] | None = None,
    ) -> None:
        known = [level for level in levels if isinstance(level, Level)]
        if len(known) < len(levels):
            if example is None:
                raise ConfigError(
                    "channels of stages given by path are not known; pass example=, an image (1, C, H, W)."
                )
            names = [level for level in levels if isinstance(level, str)]
            found = iter(_dry_run(module.eval(), names, example, select or {}))
            known = [level if isinstance(level, Level) else next(found) for level in levels]
        super().__init__(_Stages(module, known, select))
        self.feature_channels = tuple(level.channels for level in known)


def _dry_run(module: nn.Module, names: Sequence[str], example: Tensor, select: Mapping[str, Select]) -> list[Level]:
    check_feature(example, "example")
    image = (example.shape[-2], example.shape[-1])
    taps = Taps(module, names, select={name: select[name] for name in names if name in select})
    try:
        with torch.no_grad():
            _, features = taps.run((example,), {}, size=image)
    finally:
        taps.remove()
    found = []
    for name, feature in zip(names, features, strict=True):
        shape = tuple(feature.shape)
        layout = guess_layout(shape, image)
        found.append(Level(name, 0, layout.channels(shape), layout.stride, layout.size(shape, image), layout.kind))
    return found


class _TimmFeatures(nn.Module):
    """Normalisation and the feature pyramid of a timm encoder, as (B, C, H, W)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: nn.Module, mean: Sequence[float], std: Sequence[float], size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.net = net
        self.size = size
        self.last = "NHWC" in str(getattr(net, "output_fmt", "NCHW")).upper()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, image: Tensor) -> list[Tensor]:
        check_feature(image, "image", channels=len(self.mean))
        if self.size is not None and tuple(image.shape[-2:]) != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        features = self.net((image - self.mean.to(image.dtype)) / self.std.to(image.dtype))
        return [f.permute(0, 3, 1, 2) if self.last else f for f in features]

    def extra_repr(self) -> str:
        """Which features, of which images."""
        indices = getattr(self.net.feature_info, "out_indices", None)
        return f"out_indices={indices}, size={self.size}, channels_last={self.last}"


class TimmTeacher(FrozenTeacher):
    """An encoder of timm, frozen, as a teacher; takes images in [0, 1] and normalises them as its weights expect.

    Args:
        name: Of the model in timm; hf-hub:OWNER/NAME; or local-dir:FOLDER, with the config.json and weights that
            `timm.models.save_for_hf` writes, for machines without a network.
        pretrained: Load its weights, from where timm has them.
        out_indices: Which feature levels, shallow to deep; all of them by default.
        in_channels: Channels of the image. For other numbers than 3, timm adapts the weights, and the mean and
            deviation of the colours are averaged.
        size: (height, width) that images are brought to first, for encoders that take one size only.
        options: Further arguments of `timm.create_model`.

    Attributes:
        feature_channels: Channels of each level.
        strides: Pixels of the image (of `size`, if given) a cell.

    Raises:
        ConfigError: timm has no such model, or the model gives no features.

    Example:
        >>> import torch
        >>> from kdinpaint import TimmTeacher
        >>> teacher = TimmTeacher("resnet18", pretrained=False, out_indices=(1, 2))
        >>> [tuple(f.shape) for f in teacher(torch.rand(1, 3, 32, 32))]
        [(1, 64, 8, 8), (1, 128, 4, 4)]
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = True,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        size: tuple[int, int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        timm = importlib.import_module("timm")  # here, because it takes a second
        base = name.removeprefix("hf-hub:").partition(".")[0]
        if not name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(base):
            near = timm.list_models(f"*{base[:5]}*")[:8]
            raise ConfigError(f"timm has no model {name!r}; near: {', '.join(near) or 'none, see timm.list_models()'}.")
        more = dict(options or {})
        if out_indices is not None:
            more["out_indices"] = tuple(out_indices)
        try:
            net = timm.create_model(name, pretrained=pretrained, features_only=True, in_chans=in_channels, **more)
        except (AssertionError, AttributeError, IndexError, RuntimeError) as error:
            if pretrained and isinstance(error, RuntimeError):
                raise
            raise ConfigError(
                f"{name} gives no features with out_indices={out_indices} ({type(error).__name__}: {error}). Choose "
                f"other levels, or name its stages with ModuleTeacher."
            ) from error
        config = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
        mean, std = ([*config.get(key, default)] for key, default in (("mean", (0.5,) * 3), ("std", (0.5,) * 3)))
        if len(mean) != in_channels:
            mean, std = [sum(mean) / len(mean)] * in_channels, [sum(std) / len(std)] * in_channels
        super().__init__(_TimmFeatures(net, mean, std, size))
        self.feature_channels: tuple[int, ...] = tuple(net.feature_info.channels())
        self.strides: tuple[int, ...] = tuple(net.feature_info.reduction())
