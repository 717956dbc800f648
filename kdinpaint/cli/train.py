"""`kdinpaint train`: from photos to a trained, measured inpainter; a preset supplies other defaults."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Annotated

import tyro

from kdinpaint._core.processes import process_rank
from kdinpaint.cli.report import print_results
from kdinpaint.training import PRESETS, TrainConfig, train
from kdinpaint.training.presets import find_preset, parse_budget

__all__ = ["command", "with_preset"]


def command(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Train a teacher and a student on photos, and measure the student.

    Besides the options below: --preset NAME takes the defaults of a run of the paper (paper-celeba, paper-paris,
    paper-places2), --budget SHARE scales it (0.01, 1%), --show prints it and stops. Every option can be changed all
    the same.
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

    def show() -> None:
        print(json.dumps(preset.to_dict(), indent=2, default=str))

    default = preset.config(photos=tyro.MISSING, out=tyro.MISSING)

    def preset_command(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = default) -> None:
        command(config)

    preset_command.__doc__ = f"Train with the preset {preset.name}, budget {ours.budget or 1}. {command.__doc__}"
    return (show if ours.show else preset_command), rest
