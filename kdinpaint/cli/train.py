"""`kdinpaint train`: from photos to a trained, measured inpainter; a preset supplies other defaults."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from kdinpaint._core.processes import process_rank
from kdinpaint.cli.report import print_results
from kdinpaint.training import PRESETS, TrainConfig, train
from kdinpaint.training.presets import find_preset, parse_budget
from kdinpaint.training.train import description

__all__ = ["command", "shown", "with_preset"]


def command(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Train a teacher and a student on photos, and measure the student.

    Besides the options below: --preset NAME takes the defaults of a run of the paper (paper-celeba, paper-paris,
    paper-places2), --budget SHARE scales it (0.01, 1%), --show prints what would run and stops. Every option can be
    changed all the same.
    """
    results = train(config)
    if process_rank() > 0:
        return
    print_results(results)
    print(f"\nResults: {config.out}. Try: kdinpaint inpaint IMAGE MASK -o OUT.png --weights {config.out}")


def with_preset(arguments: Sequence[str]) -> tuple[Callable[..., None], list[str]]:
    """The command with the defaults of the preset that the arguments name, and the arguments that are left.

    Args:
        arguments: Those behind `train`.

    Raises:
        ConfigError: Unknown preset, or a budget that is no share.
    """
    parser = argparse.ArgumentParser(prog="kdinpaint train", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", metavar="NAME", help=", ".join(PRESETS))
    parser.add_argument("--budget", metavar="SHARE")
    parser.add_argument("--show", action="store_true")
    ours, rest = parser.parse_known_args(list(arguments))
    if ours.preset is None:
        if ours.budget is not None or ours.show:
            parser.error(f"--budget and --show need --preset, one of {', '.join(PRESETS)}")
        return command, rest
    preset = find_preset(ours.preset, parse_budget(ours.budget or "1"))

    # What is only shown needs no places.
    photos, out = (Path("PHOTOS"), Path("OUT")) if ours.show else (tyro.MISSING, tyro.MISSING)
    default = preset.config(photos=photos, out=out)

    def show(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default) -> None:
        whole = {"preset": preset.name, "budget": ours.budget or "1", **shown(config), "notes": dict(preset.notes)}
        print(json.dumps(whole, indent=2, default=str))

    def preset_command(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default) -> None:
        command(config)

    chosen = show if ours.show else preset_command
    chosen.__doc__ = f"Train with the preset {preset.name}, budget {ours.budget or 1}. {command.__doc__}"
    return chosen, rest


def shown(config: TrainConfig) -> dict[str, Any]:
    """What a configuration trains, as plain values: the recipe of a comparator, or teacher and student."""
    return {"out": config.out, **description(config), "runtime": dataclasses.asdict(config.runtime)}
