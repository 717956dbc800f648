"""Adding to a result: what a file of the same grid, pairs, photos and settings holds stays."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation.grids import Grid
from kdinpaint.ablation.networks import match_sizes
from kdinpaint.ablation.settings import CellSettings
from kdinpaint.training.claim import changes

__all__ = ["add_to", "check_addition", "load_result"]


def load_result(path: Path | None) -> dict[str, Any] | None:
    """The content of a result file; None where there is none.

    Raises:
        ConfigError: There is a file that is not the result of an ablation.
    """
    if path is None or not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if {"grid", "seeds", "manifest", "photos", "results", "failures"} <= content.keys():
            return cast("dict[str, Any]", content)
    except (OSError, ValueError, AttributeError):
        pass
    raise ConfigError(f"{path} is there and is not the result of an ablation; choose another --out.")


def check_addition(
    before: Mapping[str, Any], facts: Mapping[str, Any], grid: Grid, base: CellSettings, source: str
) -> None:
    """Refuse to put cells into one table that cannot be compared.

    Args:
        before: Content of the result file.
        facts: What all its cells must have in common; what an older file does not record is not compared.
        grid: All of it.
        base: The settings that cells differ from.
        source: How to name the file in errors.

    Raises:
        ConfigError: The file is of another grid, other pairs, photos or settings; the message says what differs.
    """
    names = [cell["name"] for cell in before["grid"]["cells"]]
    strange = sorted(set(names) - {cell.name for cell in grid.cells})
    if before["grid"]["name"] != grid.name or strange:
        wrong = [f"grid {before['grid']['name']!r}, now {grid.name!r}"] if before["grid"]["name"] != grid.name else []
        wrong += [f"it has cells that the grid lacks ({', '.join(strange)})"] if strange else []
    else:
        recorded = {name: before[name] for name in facts if name in before}
        wrong = changes(recorded, {name: facts[name] for name in recorded})
        chosen = grid.select(names)
        settings = match_sizes(chosen, chosen.resolve(base))
        for cell in before["grid"]["cells"]:
            wrong += [
                f"cell {cell['name']!r}: {text}" for text in changes(cell["settings"], settings[cell["name"]].json())
            ]
    if wrong:
        raise ConfigError(
            f"{source} holds results of something else: {'; '.join(wrong[:4])}. It is untouched; repeat its options to "
            f"add to it, or choose another --out."
        )


def add_to(before: Mapping[str, Any], now: Mapping[str, Any], grid: Grid, tried: Sequence[str]) -> dict[str, Any]:
    """Both results in one: every cell in the grid's order, every seed; where both have a run, the newer one.

    Args:
        before: Content of a result file that `check_addition` lets pass.
        now: Content of the new one.
        grid: All of it.
        tried: Names of the tasks of the new one: whether they failed before does not count any more.
    """
    cells = {cell["name"]: cell for content in (before, now) for cell in content["grid"]["cells"]}
    union = grid.select(list(cells))
    results = {
        cell.name: dict(
            sorted(
                {**before["results"].get(cell.name, {}), **now["results"].get(cell.name, {})}.items(),
                key=lambda run: int(run[0]),
            )
        )
        for cell in union.cells
    }
    done = {f"{name}, seed {seed}" for name, runs in results.items() for seed in runs}
    failures = {name: why for name, why in before["failures"].items() if name not in tried} | now["failures"]
    machine = {"environment": before["environment"], "device": before["device"]}
    others = [*before.get("earlier", []), machine]
    present = {"environment": now["environment"], "device": now["device"]}
    return {
        **now,
        "grid": {**now["grid"], "reference": union.reference, "cells": [cells[cell.name] for cell in union.cells]},
        "seeds": sorted({*before["seeds"], *now["seeds"]}),
        "results": results,
        "failures": {name: why for name, why in failures.items() if name not in done},
        # Machines, besides this one, that some of the runs were made on.
        "earlier": [one for n, one in enumerate(others) if one != present and one not in others[:n]],
    }
