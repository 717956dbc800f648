"""`kdinpaint inspect`: the stages at which a network of the user's could be retrofitted."""

import dataclasses
import difflib
import importlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting import Inspection, inspect

__all__ = ["InspectConfig", "command"]

_SHAPE = re.compile(r"(?:(\w+)=)?(\d+(?:x\d+)*)")


@dataclass(frozen=True)
class InspectConfig:
    """Propose stages of a network for a RetrofitPlan, from one dry run of it on random input."""

    network: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PACKAGE.MODULE:NAME")]
    """What makes the network, as in segmentation_models_pytorch:Unet: a class or function that is called, or a
    network. Modules in the working directory are found. timm:NAME is the encoder of that name, without its weights,
    with its features as output and as many input channels as --input has."""
    input: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]BxCxHxW")] = ()
    """Shape of an input, as 1x4x64x64; once for each positional argument, or NAME=1x1x64x64 for a named one."""
    kwargs: Annotated[str, tyro.conf.arg(metavar="JSON")] = "{}"
    """Named arguments of what makes the network, as '{"in_channels": 4, "encoder_weights": null}'."""
    json: bool = False
    """Print JSON instead of a table."""


def command(config: Annotated[InspectConfig, tyro.conf.arg(name="")]) -> None:
    """Propose stages of a network for a RetrofitPlan."""
    args, kwargs = _example(config.input)
    sys.path.insert(0, "")  # the working directory, also for what is imported when the network is made or run
    try:
        net = _network(config.network, _arguments(config.kwargs), args)
        found = _inspect(net, args, kwargs)
    finally:
        sys.path.remove("")
    mask, note = _mask(found, args, kwargs)
    plan = _plan(found, mask)
    if config.json:
        levels = [{**dataclasses.asdict(level), "target": level.target} for level in found.levels]
        note = note if plan is not None else None
        print(json.dumps({"image": found.image, "levels": levels, "plan": plan, "note": note}, indent=2))
        return
    print(found)
    if plan is not None:
        print(f"\n# {note}\n{plan}" if note else f"\n{plan}")


def _inspect(net: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Inspection:
    try:
        return inspect(net, args, example_kwargs=kwargs)
    except ConfigError as error:
        raise ConfigError(f"{error} The example is what --input says: one for each argument.") from error


def _mask(found: Inspection, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> tuple[str | None, str | None]:
    """Where a plan finds the mask, None for its default, and what a person has to know about that."""
    inputs = {**{f"arg:{n}": value for n, value in enumerate(args)}, **{f"kwarg:{n}": t for n, t in kwargs.items()}}
    places = [place for place, t in inputs.items() if t.shape[1:] in (found.image, (1, *found.image))]
    if len(places) == len(inputs):
        places = places[1:]  # a grey image
    if places:
        places.sort(key=lambda place: "mask" not in place)
        others = f" Or is it {', '.join(map(json.dumps, places[1:]))}?" if places[1:] else ""
        return places[0], f'1 is taken for hole in the mask; write "~{places[0]}" if 1 means known.{others}'
    channels = next(iter(inputs.values())).shape[1:2]
    if channels in ((1,), (3,)):
        return None, (
            f"No input looks like a mask, and the plan would take the last of the {channels[0]} channel(s) of the "
            f"image for it. Say where it is: RetrofitPlan(..., mask=...)."
        )
    return None, None


def _plan(found: Inspection, mask: str | None) -> str | None:
    """The line of Python that plans what was found."""
    if not found.levels:
        return None
    targets = ", ".join(json.dumps(t) if isinstance(t := level.target, str) else _pair(t) for level in found.levels)
    outputs = {level.name: level.output[0] if len(level.output) == 1 else level.output for level in found.levels}
    several = ", ".join(f"{json.dumps(name)}: {path!r}" for name, path in outputs.items() if path != ())
    options = (f", outputs={{{several}}}" if several else "") + (f", mask={json.dumps(mask)}" if mask else "")
    return f"RetrofitPlan(levels=[{targets}]{options})"


def _pair(target: tuple[str, str]) -> str:
    return f"({', '.join(map(json.dumps, target))})"


def _example(shapes: Sequence[str]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Random positional and named arguments of the shapes that were asked for."""
    if not shapes:
        raise ConfigError("there is no input; give the shape of each, as in --input 1x4x64x64.")
    args, kwargs = [], {}
    generator = torch.Generator().manual_seed(0)
    for text in shapes:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ConfigError(f"the input is {text!r}; expected a shape as 1x4x64x64, or NAME=1x1x64x64 for a keyword.")
        value = torch.rand([int(n) for n in match[2].split("x")], generator=generator)
        if match[1]:
            kwargs[match[1]] = value
        else:
            args.append(value)
    return tuple(args), kwargs


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"kwargs is {text!r}, which is no JSON ({error}); expected as '{{\"depth\": 4}}'.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"kwargs is {text!r}; expected a JSON object of named arguments, as '{{\"depth\": 4}}'.")
    return found


def _network(target: str, kwargs: Mapping[str, Any], args: Sequence[Tensor]) -> nn.Module:
    """Import and make the network.

    Raises:
        ConfigError: There is no such module or name, it cannot be called so, or it gives no network.
    """
    place, _, name = target.partition(":")
    if not place or not name:
        raise ConfigError(f"the network is {target!r}; expected PACKAGE.MODULE:NAME, as torchvision.models:resnet18.")
    if place == "timm":
        first = {"in_chans": args[0].shape[1]} if args and args[0].dim() == 4 else {}
        kwargs = {"model_name": name, "features_only": True, "pretrained": False, **first, **kwargs}
        name = "create_model"
    made = _named(place, name)
    if isinstance(made, nn.Module):
        return made
    if not callable(made):
        raise ConfigError(f"{target} is {describe(made)}; expected a class or function that makes a torch.nn.Module.")
    try:
        net = made(**kwargs)
    except Exception as error:
        raise ConfigError(
            f"{target} cannot be made: {type(error).__name__}: {error}. Its arguments were {dict(kwargs)}; give "
            f"others with --kwargs '{{...}}'."
        ) from error
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{target} gives {describe(net)}; expected a torch.nn.Module.")
    return net


def _named(place: str, name: str) -> Any:  # noqa: ANN401 - whatever stands there
    """The attribute of a module."""
    try:
        found = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {error.name!r}; install it, or run this in the folder that holds it."
            ) from None
        raise ConfigError(f"{place} cannot be imported: {error}.") from error
    except Exception as error:
        raise ConfigError(f"{place} cannot be imported: {type(error).__name__}: {error}.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            public = [n for n in dir(found) if not n.startswith("_")]
            near = ", ".join(difflib.get_close_matches(part, public, 5, 0.5)) or ", ".join(public[:8]) or "nothing"
            raise ConfigError(f"{place} has no {name!r}; it has {near}.")
        found = getattr(found, part)
    return found
