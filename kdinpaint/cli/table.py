"""`kdinpaint table`: results of runs as the paper's Table 1, in Markdown, CSV and LaTeX."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.files import write_text
from kdinpaint.metrics import PAPER_BINS, MeasuredMethod, compare_runs, render_comparison

__all__ = ["TableConfig", "command", "read_runs"]

_FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}


@dataclass(frozen=True)
class TableConfig:
    """Put runs side by side, by data set and hole ratio, with the paper's numbers beside them."""

    runs: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]RUN ...")]
    """Run folders, evaluation folders or metrics.json files, each with a name for its method if you like."""
    protocol: str = "default"
    """Only results of this protocol are taken."""
    manifest: str | None = None
    """Start of a manifest's hash: only results on it are taken; by default the one that the runs share."""
    all_bins: bool = False
    """Every bin of the hole ratio; by default the two of the paper."""
    metrics: tuple[str, ...] | None = None
    """Which metrics; psnr and ssim by default, as far as the protocol has them."""
    published: bool = True
    """Put the paper's numbers beside those measured."""
    out: Path | None = None
    """Folder for table.md, table.csv and table.tex; the table is printed in any case."""


def command(config: Annotated[TableConfig, tyro.conf.arg(name="")]) -> None:
    """Put runs into the paper's Table 1: Markdown on the terminal, and with --out also as CSV and LaTeX."""
    methods = read_runs(config.runs, protocol=config.protocol, manifest=config.manifest)
    table = compare_runs(
        methods,
        metrics=config.metrics,
        bins=None if config.all_bins else PAPER_BINS,
        published=config.published,
    )
    print(render_comparison(table, "markdown"))
    if config.out is not None:
        for style in ("markdown", "csv", "latex"):
            write_text(config.out / _FILES[style], render_comparison(table, style) + "\n")
        print(f"\nWritten to {config.out}: {', '.join(_FILES.values())}")


def read_runs(runs: tuple[str, ...], *, protocol: str, manifest: str | None) -> list[MeasuredMethod]:
    """The results that can stand in one table.

    Raises:
        DataError: A run has no results, none under the protocol, or the runs of a data set share no manifest.
        ConfigError: No run, or the runs of a data set share several manifests.
    """
    if not runs:
        raise ConfigError("there is no run; expected at least one run folder.")
    found = [_results(run, protocol, manifest) for run in runs]
    methods: list[MeasuredMethod] = []
    for dataset in dict.fromkeys(results[0].dataset for results in found):
        group = [results for results in found if results[0].dataset == dataset]
        shared = set.intersection(*({method.manifest for method in results} for results in group))
        if len(shared) != 1:
            held = "; ".join(f"{r[0].source}: {', '.join(sorted({m.manifest[:12] for m in r}))}" for r in group)
            if shared:
                raise ConfigError(f"{dataset}: the runs share several manifests ({held}). Choose one with --manifest.")
            raise DataError(
                f"{dataset}: the runs were measured on different manifests ({held}). Such numbers cannot stand in one "
                f"table: measure all on one, with kdinpaint evaluate RUN --manifest FILE --photos FOLDER."
            )
        methods += [method for results in group for method in results if method.manifest in shared]
    return methods


def _results(run: str, protocol: str, manifest: str | None) -> list[MeasuredMethod]:
    name, _, place = run.rpartition("=")
    path = Path(place)
    files = [path] if path.is_file() else [path / "metrics.json", *sorted(path.glob("evaluation/*/metrics.json"))]
    contents = [(file, _read(file)) for file in files if file.is_file()]
    if not contents:
        raise DataError(f"{path} holds no metrics.json; expected a run folder or the folder of an evaluation.")
    protocols = sorted({content["protocol"] for _, content in contents})
    contents = [(file, content) for file, content in contents if content["protocol"] == protocol]
    if not contents:
        raise DataError(
            f"{path} was measured under {', '.join(protocols)}, not under {protocol}. Protocols cannot be mixed: "
            f"run kdinpaint evaluate {path} --protocol {protocol} --photos FOLDER --manifest FILE."
        )
    contents = [item for item in contents if item[1]["manifest"].startswith(manifest or "")]
    if not contents:
        raise DataError(f"{path} has no results on a manifest that starts with {manifest!r}.")
    # A run that was trained on a manifest and evaluated on it again has these results twice.
    once = {content["manifest"]: (file, content) for file, content in reversed(contents)}
    return [method for file, content in once.values() for method in _methods(file, content, name or path.name)]


def _methods(file: Path, content: dict[str, Any], name: str) -> list[MeasuredMethod]:
    several = len(content["models"]) > 1
    return [
        MeasuredMethod(
            dataset=_dataset(file),
            method=f"{name} {model}" if several else name,
            protocol=content["protocol"],
            manifest=content["manifest"],
            summary=summary,
            source=str(file),
        )
        for model, summary in content["models"].items()
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for key in ("protocol", "manifest", "models"):
            content[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} holds no results ({type(error).__name__}: {error}); expected what kdinpaint writes."
        ) from error
    return dict(content)


def _dataset(file: Path) -> str:
    """The data set that the run was configured with, found in the nearest config.json above."""
    for folder in file.parents[:3]:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            name = config["data"]["dataset"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return "places2" if str(name).startswith("places2") else str(name or "photos")
    return "photos"
