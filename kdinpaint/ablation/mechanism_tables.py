"""What features know and show, as tables: means, paired differences, by the hole's ratio and depth."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from kdinpaint._core.markdown import markdown_table
from kdinpaint.ablation.statistics import interval
from kdinpaint.ablation.wording import judged

__all__ = ["mechanism_tables", "other_teachers"]

_LEGEND = {
    "hole gap, shallow to deep": "Hole gap: 0 equals the teacher, 1 knows no more than each channel's mean.",
    "readout gap": "Readout gap: the same of the best linear map of the features.",
    "readout gap, next deeper level": "Next deeper level: of the same target, read from there.",
    "mask probe AUC": "Mask probe: 0.5 if no linear probe sees the hole, 1 if it is plain to see.",
}
_GAPS = {"hole gap": "hole_gap", "readout gap": "readout_gap"}
_Runs = Sequence[Mapping[str, Any]]


def mechanism_tables(content: Mapping[str, Any], names: Sequence[str], reference: str) -> str:
    """Tables of the mechanism.

    Args:
        content: Of a result file.
        names: Cells with results.
        reference: One of them, that differences are taken from.
    """
    parts = [
        _means(content, names),
        _differences(content, names, reference),
        _by_ratio(content, names),
        _by_depth(content, names),
    ]
    return "\n\n".join(part for part in parts if part)


def other_teachers(content: Mapping[str, Any], names: Sequence[str], reference: str) -> list[str]:
    """The cells that, for some seed, had another teacher than the reference."""
    runs = content["results"]
    return [
        name
        for name in names
        if any(
            run.get("teacher") != runs[reference][seed].get("teacher")
            for seed, run in runs[name].items()
            if seed in runs[reference]
        )
    ]


def _means(content: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for name in names:
        runs = _mechanisms(content, name)
        weights = [entry for run in runs for entry in run.get("importance", {}).get("cross", [])]
        adaptive = [value for run in runs for value in run["adaptive"].values()]
        rows.append(
            {
                "features": name,
                "hole gap, shallow to deep": _levels(runs, "hole_gap"),
                "readout gap": _levels(runs, "readout_gap"),
                "readout gap, next deeper level": _levels(runs, "readout_gap", "deeper"),
                "mask probe AUC": _levels(runs, "mask_probe_auc"),
                "effective channels, share": _mean([_share(e) for e in weights], ".2f"),
                "corr(rho, d)": _mean([_all(e["correlation"]) for e in weights], "+.2f"),
                "offset, cells": _mean([v["offset"]["all"] for v in adaptive], ".2f"),
                "kernel spread": _mean([v["kernel_spread"]["all"] for v in adaptive], ".3f"),
            }
        )
    shown = [key for key in rows[0] if any(row[key] != "-" for row in rows)] if rows else []
    notes = [text for key, text in _LEGEND.items() if key in shown]
    return markdown_table(shown, [[row[key] for key in shown] for row in rows]) + "\n\n" + " ".join(notes)


def _differences(content: Mapping[str, Any], names: Sequence[str], reference: str) -> str:
    """Level by level; of cells with the reference's teacher, as gaps to different teachers are different things."""
    runs, other = content["results"], other_teachers(content, names, reference)
    depth = {
        title: max(len(run["mechanism"].get(key, [])) for run in runs[reference].values())
        for title, key in _GAPS.items()
    }
    rows = []
    for name in names:
        if name == reference or name in other:
            continue
        seeds = [str(seed) for seed in content["seeds"] if str(seed) in runs[name] and str(seed) in runs[reference]]
        texts = []
        for title, key in _GAPS.items():
            for level in range(depth[title]):
                both = [[_value(runs[cell][seed], key, level) for cell in (name, reference)] for seed in seeds]
                found = [ours - theirs for ours, theirs in both if ours is not None and theirs is not None]
                texts.append(judged(interval(found), 2) if found else "-")
        rows.append([name, *texts])
    header = [f"{title}, level {level + 1}" for title in _GAPS for level in range(depth[title])]
    if not rows or not header:
        return ""
    note = f"Differences of gaps from **{reference}** with their intervals over seeds; less is closer to the teacher."
    if other:
        note += f" Gaps to another teacher cannot be compared: {', '.join(other)}."
    return markdown_table(["features", *header], rows) + "\n\n" + note


def _value(run: Mapping[str, Any], key: str, level: int) -> float | None:
    levels = run["mechanism"].get(key, [])
    return levels[level]["all"] if level < len(levels) else None


def _by_ratio(content: Mapping[str, Any], names: Sequence[str]) -> str:
    first = next(iter(content["results"][names[0]].values()))
    bins = {n: f"{100 * row['low']:g}-{100 * row['high']:g} %" for n, row in enumerate(first["bins"]) if row["count"]}
    tables = []
    for title, key in (("hole gap", "hole_gap"), ("mask probe AUC", "mask_probe_auc")):
        rows = [[name, *(_levels(_mechanisms(content, name), key, "bins", n) for n in bins)] for name in names]
        if any(text != "-" for row in rows for text in row[1:]):
            tables.append(markdown_table([f"{title} by hole ratio", *bins.values()], rows))
    weights = [[name, *(_shares(_mechanisms(content, name), n) for n in bins)] for name in names]
    weights = [row for row in weights if any(text != "-" for text in row[1:])]
    if weights:
        tables.append(markdown_table(["effective channels, share; corr(rho, d)", *bins.values()], weights))
    return "\n\n".join(tables)


def _by_depth(content: Mapping[str, Any], names: Sequence[str]) -> str:
    runs = _mechanisms(content, names[0])
    if "depth" not in runs[0]:
        return ""
    edges, pairs = runs[0]["depth"]["edges"], runs[0]["depth"]["pairs"]
    texts = [*(f"{low + 1}-{high} px" for low, high in pairwise([0, *edges])), f"over {edges[-1]} px"]
    bins = {n: text for n, (text, count) in enumerate(zip(texts, pairs, strict=True)) if count}
    rows = [[name, *(_levels(_mechanisms(content, name), "hole_gap", "depth", n) for n in bins)] for name in names]
    note = "Depth: steps from the innermost pixel of the hole to the nearest known one."
    return markdown_table(["hole gap by depth of the hole", *bins.values()], rows) + "\n\n" + note


def _mechanisms(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [run["mechanism"] for run in content["results"][name].values()]


def _levels(runs: _Runs, key: str, part: str = "all", place: int | None = None) -> str:
    """A value a level, averaged over seeds."""
    columns = zip(*([level[part] for level in run[key] if part in level] for run in runs if key in run), strict=True)
    values = ([v if place is None else v[place] for v in column] for column in columns)
    return ", ".join(_mean(column, ".2f") for column in values) or "-"


def _shares(runs: _Runs, place: int) -> str:
    """Of one bin; older results have none."""
    found = [
        (_share(entry, place), entry["correlation"]["bins"][place])
        for run in runs
        for entry in run.get("importance", {}).get("cross", [])
        if isinstance(entry["correlation"], Mapping)
    ]
    return f"{_mean([s for s, _ in found], '.2f')}; {_mean([c for _, c in found], '+.2f')}" if found else "-"


def _share(entry: Mapping[str, Any], place: int | None = None) -> float | None:
    """Effective channels as a share of all; None where they are not known."""
    value = entry["effective_channels"]
    value = _all(value) if place is None else value["bins"][place]
    return None if value is None else value / entry["channels"]


def _all(value: Any) -> Any:  # noqa: ANN401 - older results have a number
    return value["all"] if isinstance(value, Mapping) else value


def _mean(values: Sequence[float | None], style: str) -> str:
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known), style) if known else "-"
