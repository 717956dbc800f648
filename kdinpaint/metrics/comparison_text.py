"""A comparison as Markdown, CSV or LaTeX, with the paper's numbers told from the measured ones in each."""

import csv
import io
from typing import Literal

from kdinpaint._core.checks import check_choice
from kdinpaint.metrics.comparison import Bin, Comparison, Value
from kdinpaint.metrics.render import _layout

__all__ = ["ComparisonStyle", "render_comparison"]

ComparisonStyle = Literal["markdown", "csv", "latex"]

_NAMES = {"celeba": "CelebA", "paris": "Paris StreetView", "places2": "Places2"}
_TITLES = {"psnr": "PSNR", "ssim": "SSIM", "hole_psnr": "PSNR of the hole", "hole_l1": "L1 of the hole"}
_PAPER = "As the paper prints it; its protocol is not stated and its masks are not known, so it is no exact rival."
_SLIP = "Printed so, and a slip: it equals another cell of its row and cannot stand beside 32.71 dB. Not a result."


def render_comparison(table: Comparison, style: ComparisonStyle) -> str:
    """Write a comparison down.

    Published values are in italics with a dagger (Markdown), in grey italics (LaTeX, with the packages xcolor and
    booktabs), or have "published" as their source (CSV); the paper's slip is marked wherever it stands.

    Args:
        table: From `compare_runs`.
        style: "markdown", "csv" or "latex".

    Returns:
        The text, without a final newline.

    Raises:
        ConfigError: Unknown style.
    """
    check_choice(style, ("markdown", "csv", "latex"), "style")
    return {"markdown": _markdown, "csv": _csv, "latex": _latex}[style](table)


def _markdown(table: Comparison) -> str:
    blocks = []
    for metric in table.metrics:
        header = [_TITLES.get(metric, metric), *(_column(*column) for column in table.columns)]
        rows = [["images", *(str(table.count(*column)) for column in table.columns)]]
        rows += [
            [method, *(_cell(table.measured.get((metric, method, *column)), metric) for column in table.columns)]
            for method in table.methods(published=False)
        ]
        for method in table.methods(published=True):
            values = [table.published.get((metric, method, *column)) for column in table.columns]
            cells = ["-" if v is None else f"*{_number(v.mean, metric)}*{'‡' if v.slip else '†'}" for v in values]
            rows.append([f"*{method}* †", *cells])
        blocks.append(_layout(header, rows, "markdown"))
    notes = [_caption(table)]
    notes += [f"† {_PAPER}"] if table.published else []
    notes += [f"‡ {_SLIP}"] if any(value.slip for value in table.published.values()) else []
    return "\n\n".join([*blocks, *notes])


def _latex(table: Comparison) -> str:
    lines = [f"% {_caption(table)}", "% Needs the packages xcolor and booktabs."]
    lines += [f"% grey: {_PAPER}"] if table.published else []
    lines += [f"% ddagger: {_SLIP}"] if any(value.slip for value in table.published.values()) else []
    for metric in table.metrics:
        lines += [f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}", "\\toprule"]
        header = [_TITLES.get(metric, metric), *(_escaped(_column(*column)) for column in table.columns)]
        lines += [
            _line(header),
            _line(["images", *(str(table.count(*column)) for column in table.columns)]),
            "\\midrule",
        ]
        for method in table.methods(published=False):
            values = [table.measured.get((metric, method, *column)) for column in table.columns]
            lines.append(_line([_escaped(method), *(_cell(v, metric).replace("±", "$\\pm$") for v in values)]))
        if table.published:
            lines.append("\\midrule")
        for method in table.methods(published=True):
            values = [table.published.get((metric, method, *column)) for column in table.columns]
            cells = ["-" if v is None else _number(v.mean, metric) + ("$^\\ddagger$" if v.slip else "") for v in values]
            lines.append(_line([f"\\textcolor{{gray}}{{\\textit{{{cell}}}}}" for cell in (method, *cells)]))
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join(lines).rstrip()


def _csv(table: Comparison) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = "dataset metric low high method source mean stderr count protocol manifest note"
    writer.writerow(names.split())
    for (metric, method, dataset, (low, high)), value in table.measured.items():
        numbers = [value.mean, "" if value.stderr is None else value.stderr, value.count]
        pinned = [table.protocol, table.manifests[dataset], ""]
        writer.writerow([dataset, metric, low, high, method, "measured", *numbers, *pinned])
    for (metric, method, dataset, (low, high)), value in table.published.items():
        row = [
            dataset,
            metric,
            low,
            high,
            method,
            "published",
            value.mean,
            "",
            "",
            "",
            "",
            "slip" if value.slip else "",
        ]
        writer.writerow(row)
    return file.getvalue().rstrip("\n")


def _caption(table: Comparison) -> str:
    manifests = ", ".join(f"{dataset} {digest[:12]}" for dataset, digest in table.manifests.items())
    return f"Mean ± standard error over the images; protocol {table.protocol}; manifests: {manifests}."


def _column(dataset: str, bounds: Bin) -> str:
    return f"{_NAMES.get(dataset, dataset)} {100 * bounds[0]:g}-{100 * bounds[1]:g} %"


def _cell(value: Value | None, metric: str) -> str:
    if value is None:
        return "-"
    error = "" if value.stderr is None else f" ± {_number(value.stderr, metric)}"
    return f"{_number(value.mean, metric)}{error}"


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric.endswith("psnr") else f"{value:.3f}"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _escaped(text: str) -> str:
    for character in "%_&#":
        text = text.replace(character, f"\\{character}")
    return text
