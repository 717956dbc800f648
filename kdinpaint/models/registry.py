"""Named model configurations."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.models.autoencoder import AutoEncoder
from kdinpaint.models.comparators import EdgeConnectNet, GatedConvNet, PartialConvNet, PluralisticNet
from kdinpaint.models.inpainting import InpaintingNet

__all__ = ["create_model", "list_models"]

_WIDTHS: Mapping[str, dict[str, Any]] = {
    "tiny": {"channels": (24, 48, 96), "head_channels": 16},
    "small": {"channels": (32, 64, 128), "head_channels": 24},
    "base": {"channels": (48, 96, 128, 128), "head_channels": 32},
}
_PLAIN: Mapping[str, Any] = {"filler": "none", "attention": None}


def _entries() -> dict[str, tuple[type[nn.Module], dict[str, Any]]]:
    entries: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {}
    for size, widths in _WIDTHS.items():
        entries[f"kdinpaint_{size}"] = (InpaintingNet, dict(widths))
        entries[f"kdinpaint_{size}_plain"] = (InpaintingNet, {**widths, **_PLAIN})
        entries[f"autoencoder_{size}"] = (AutoEncoder, dict(widths))
    entries.update(
        {
            "pc": (PartialConvNet, {}),
            "pc_512": (PartialConvNet, {"channels": PartialConvNet.channels_for(512)}),
            "gc": (GatedConvNet, {}),
            "ec": (EdgeConnectNet, {}),
            "pic": (PluralisticNet, {}),
        }
    )
    return entries


_MODELS = _entries()


def list_models() -> list[str]:
    """Names that `create_model` knows.

    Example:
        >>> from kdinpaint import list_models
        >>> "kdinpaint_base" in list_models()
        True
    """
    return sorted(_MODELS)


def create_model(name: str, *, in_channels: int = 3, **options: Any) -> nn.Module:  # noqa: ANN401
    """Build a named model.

    Args:
        name: One of `list_models()`: kdinpaint_{tiny, small, base}, each also with the suffix _plain (no
            filler blocks, no attention), and the teacher of the same widths, autoencoder_{tiny, small, base};
            the networks of comparisons, pc (pc_512 with the eighth level of the paper), gc, ec and pic.
        in_channels: Channels of the image.
        **options: Further arguments of the model's class, overriding the named configuration.

    Returns:
        An `InpaintingNet`, `AutoEncoder` or `Comparator` with fresh weights.

    Raises:
        ConfigError: Unknown name.
        TypeError: An option the class does not have.

    Example:
        >>> from kdinpaint import create_model
        >>> net = create_model("kdinpaint_tiny", in_channels=1)
        >>> net.in_channels
        1
    """
    if name not in _MODELS:
        raise ConfigError(f"there is no model {name!r}; expected one of {', '.join(list_models())}.")
    cls, preset = _MODELS[name]
    return cls(in_channels, **{**preset, **options})
