"""What of a retrofitted host is trained, switched on, and saved by itself."""

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, WeightsError
from kdinpaint.retrofitting.feed import MaskFeed, feed_of
from kdinpaint.retrofitting.masks import as_hole
from kdinpaint.retrofitting.wrappers import FILLER, FilledStage

__all__ = [
    "TRAINABLE",
    "Trainable",
    "disabled",
    "filled_stages",
    "filler_state_dict",
    "load_filler_state_dict",
    "masked",
    "restore_trainable",
    "set_trainable",
]

Trainable = Literal["all", "fillers", "encoder"]
TRAINABLE: tuple[str, ...] = get_args(Trainable)


def filled_stages(model: nn.Module) -> list[FilledStage]:
    """The wrappers of a retrofitted host; none for any other model."""
    return [module for module in model.modules() if isinstance(module, FilledStage)]


def _feeds(model: nn.Module) -> list[MaskFeed]:
    return [feed for feed in map(feed_of, model.modules()) if feed is not None]


def _stages(model: nn.Module) -> list[FilledStage]:
    stages = filled_stages(model)
    if not stages:
        raise ConfigError(f"{type(model).__name__} is not retrofitted; call kdinpaint.retrofit(model, plan) first.")
    return stages


def restore_trainable(model: nn.Module) -> None:
    """Make trainable again what `set_trainable` froze."""
    for feed in _feeds(model):
        for module, name in feed.frozen:
            found = [getattr(module, name, None)]
            if is_parametrized(module, name):
                found = list(cast("nn.ModuleDict", module.parametrizations)[name].parameters())
            for parameter in found:
                if isinstance(parameter, nn.Parameter):
                    parameter.requires_grad_(True)
        feed.frozen.clear()


def set_trainable(model: nn.Module, which: Trainable) -> None:
    """Freeze what is not to be trained; what the host had frozen itself stays so.

    Args:
        model: A retrofitted host.
        which: "all", "fillers", or "encoder" (the fillers and the stages beside them).

    Raises:
        ConfigError: The model is not retrofitted, or there is no such choice.
    """
    check_choice(which, TRAINABLE, "trainable")
    stages = _stages(model)
    restore_trainable(model)
    if which == "all":
        return
    trained = {p for s in stages for p in (s if which == "encoder" else s.kdinpaint_filler).parameters()}
    feed = stages[0].feed
    frozen = {
        (module, name): parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.requires_grad and parameter not in trained
    }  # a shared one has several places
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    feed.frozen += frozen


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the host runs as if it had no fillers, on the same weights.

    Args:
        model: A retrofitted host.

    Raises:
        ConfigError: The model is not retrofitted.
    """
    feeds = list(dict.fromkeys(stage.feed for stage in _stages(model)))
    before = [feed.enabled for feed in feeds]
    try:
        for feed in feeds:
            feed.enabled = False
        yield
    finally:
        for feed, enabled in zip(feeds, before, strict=True):
            feed.enabled = enabled


@contextlib.contextmanager
def masked(model: nn.Module, mask: Tensor) -> Iterator[None]:
    """Inside, this mask says where the hole is, for every method and part of the host that is called.

    For calls that are not `model(...)`, such as `model.forward_features(x)` or `model.encoder(x)`: they have no
    place for the mask that the plan knows. A call of the model itself takes this mask, too, instead of its own.
    Checkpointed stages run again in the backward pass, which then belongs inside as well.

    Args:
        model: A retrofitted host, or a module that holds it.
        mask: (B, 1, H, W) or (B, H, W), 1 = hole, at the size of the image.

    Raises:
        ConfigError: The model is not retrofitted.
        ShapeError: `mask` is no such tensor.

    Example:
        >>> import timm
        >>> import torch
        >>> from kdinpaint import RetrofitPlan, retrofit
        >>> from kdinpaint.retrofitting import masked
        >>> net = timm.create_model("resnet10t", in_chans=4).eval()
        >>> x = torch.rand(1, 4, 64, 64)
        >>> report = retrofit(net, RetrofitPlan(["layer1", "layer2"], hidden_channels=4), (x,))
        >>> with masked(net, x[:, -1:] > 0.5):
        ...     tuple(net.forward_features(x).shape)
        (1, 512, 2, 2)
    """
    feeds = dict.fromkeys(stage.feed for stage in _stages(model))
    hole = as_hole(mask)
    with contextlib.ExitStack() as stack:
        for feed in feeds:
            stack.enter_context(feed.give(hole))
        yield


def filler_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of the fillers alone, by their keys in the state of the model.

    Args:
        model: A retrofitted host.

    Raises:
        ConfigError: The model is not retrofitted.
    """
    _stages(model)
    return {key: value for key, value in model.state_dict().items() if f".{FILLER}." in f".{key}"}


def load_filler_state_dict(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `filler_state_dict` gave into a host that is retrofitted by the same plan.

    Args:
        model: A retrofitted host.
        state: The fillers' state.

    Raises:
        ConfigError: The model is not retrofitted.
        WeightsError: Keys or shapes differ; nothing has been loaded.
    """
    own = filler_state_dict(model)
    for key in sorted(own.keys() ^ state.keys()):
        near = difflib.get_close_matches(key, [*own, *state], n=3)
        where = "the model has no" if key in state else "the state has no"
        raise WeightsError(f"{where} {key}; near it: {', '.join(n for n in near if n != key)}. Use the same plan.")
    for key, value in state.items():
        if tuple(value.shape) != tuple(own[key].shape):
            raise WeightsError(f"{key} is {tuple(value.shape)}; the model's is {tuple(own[key].shape)}.")
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
