"""A result file as Markdown: scores, paired differences with their intervals, effects, mechanism, cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.markdown import markdown_table
from kdinpaint.ablation.mechanism_tables import mechanism_tables, other_teachers
from kdinpaint.ablation.statistics import Difference, contrast, effects, hole_bins, paired_difference
from kdinpaint.ablation.values import near
from kdinpaint.ablation.wording import judged, signed, span

__all__ = ["report", "report_sections"]

_METRICS = {"psnr": ("PSNR, dB", 2), "hole_psnr": ("hole PSNR, dB", 2), "ssim": ("SSIM", 4)}
_MEANING = (
    "Differences are paired: same teacher unless said otherwise, same crops, holes, order and, where two cells share a "
    "layer, first weights. **Seeds**: 95 % interval by Student's t over one mean difference a seed; it answers what "
    "another training would give on these pairs. **Photos**: 95 % interval over the photographs measured on, "
    "differences averaged over seeds; it answers what other photographs would give with these trained networks. A "
    "difference whose interval over seeds holds 0 is marked *noise*. Known pixels are copied, so differences in hole "
    "PSNR are those in PSNR."
)


def report(content: Mapping[str, Any], *, reference: str | None = None, digits: int = 2) -> str:
    """Tables of an ablation.

    Args:
        content: Of a result file.
        reference: The cell that differences are taken from; the grid's own by default.
        digits: Decimals of decibels; SSIM has two more.

    Returns:
        Markdown.

    Raises:
        ConfigError: There is no such cell.
        DataError: Nothing has been measured.
    """
    return "\n\n".join(report_sections(content, reference=reference, digits=digits).values()) + "\n"


def report_sections(content: Mapping[str, Any], *, reference: str | None = None, digits: int = 2) -> dict[str, str]:
    """The sections of `report`, for a page that wants some of them, or another order.

    Args:
        content: Of a result file.
        reference: The cell that differences are taken from; the grid's own by default.
        digits: Decimals of decibels; SSIM has two more.

    Returns:
        Markdown by name: scores, differences, holes, effects, features, meaning (of the intervals), source; without
        those that this result has nothing for.

    Raises:
        ConfigError: There is no such cell.
        DataError: Nothing has been measured.
    """
    grid = content["grid"]
    names = [cell["name"] for cell in grid["cells"]]
    reference = reference or grid["reference"]
    if reference not in names:
        raise ConfigError(f"there is no cell {reference!r}; {near(reference, names)}")
    done = [name for name in names if content["results"].get(name)]
    if reference not in done:
        raise DataError(f"the reference cell {reference!r} has no results yet; run the same command again.")
    other = _exception(content, done, reference)
    sections = {
        "scores": _scores(content, done, digits),
        "differences": f"Difference from **{reference}**{other}:\n\n" + _differences(content, done, reference, digits),
        "holes": _by_hole(content, done, reference, digits),
        "effects": _effects(content, digits),
        "features": mechanism_tables(content, done, reference),
        "meaning": _MEANING,
        "source": _source(content),
    }
    return {name: text for name, text in sections.items() if text}


def _scores(content: Mapping[str, Any], names: Sequence[str], digits: int) -> str:
    """Mean over seeds and pairs, and the deviation over seeds."""
    sizes = {cell["name"]: cell["parameters"] for cell in content["grid"]["cells"]}
    rows = []
    for name in names:
        runs = list(content["results"][name].values())
        texts = []
        for metric, (_, base) in _METRICS.items():
            means = contrast(content, {name: 1.0}, metric)[0].mean(1)
            spread = f" ± {means.std(ddof=1):.{base - 2 + digits}f}" if len(means) > 1 else ""
            texts.append(f"{means.mean():.{base - 2 + digits}f}{spread}")
        seconds = np.mean([run["train_seconds"] for run in runs])
        rows.append([name, *texts, f"{sizes[name] / 1e6:.3f} M", f"{runs[0]['gmac']:.3f}", f"{seconds:.0f}"])
    header = ["cell", *(title for title, _ in _METRICS.values()), "parameters", "GMAC", "training, s (as run)"]
    return markdown_table(header, rows) + "\n\nMean ± deviation over seeds." + _incomplete(content, names)


def _incomplete(content: Mapping[str, Any], names: Sequence[str]) -> str:
    """Which cells lack which seeds: their means are over others, their differences over those that both have."""
    lacking = {
        name: [str(seed) for seed in content["seeds"] if str(seed) not in content["results"][name]] for name in names
    }
    texts = [f"{name} lacks seed {', '.join(seeds)}" for name, seeds in lacking.items() if seeds]
    note = "A mean is over the seeds that a cell has, a difference over those that both have: "
    return f" {note}{'; '.join(texts)}." if texts else ""


def _differences(content: Mapping[str, Any], names: Sequence[str], reference: str, digits: int) -> str:
    rows = {name: {name: 1.0, reference: -1.0} for name in names if name != reference}
    return _contrasts(content, "cell", rows, digits)


def _contrasts(content: Mapping[str, Any], title: str, rows: Mapping[str, Mapping[str, float]], digits: int) -> str:
    """A row a contrast; hole PSNR is left out, because its differences are those of PSNR: known pixels are copied."""
    texts = []
    for name, weights in rows.items():
        cells = [name]
        for metric in ("psnr", "ssim"):
            found = _try(content, weights, metric, None)
            cells += ["-", "-"] if found is None else _both(found, _METRICS[metric][1] - 2 + digits)
        texts.append(cells)
    header = [title, *(t for metric in ("psnr", "ssim") for t in (f"{_METRICS[metric][0]}, seeds", "photos"))]
    return markdown_table(header, texts)


def _try(
    content: Mapping[str, Any], weights: Mapping[str, float], metric: str, hole: tuple[float, float] | None
) -> Difference | None:
    """None while no seed has all cells."""
    try:
        return paired_difference(content, weights, metric, hole)
    except DataError:
        return None


def _both(found: Difference, digits: int) -> tuple[str, str]:
    return judged(found.seeds, digits), span(found.pairs, digits)


def _by_hole(content: Mapping[str, Any], names: Sequence[str], reference: str, digits: int) -> str:
    """PSNR, and SSIM below it."""
    bins = hole_bins(content)
    tables = []
    for metric in ("psnr", "ssim"):
        rows = []
        for name in names:
            if name == reference:
                continue
            found = [_try(content, {name: 1.0, reference: -1.0}, metric, hole) for hole in bins]
            decimals = _METRICS[metric][1] - 2 + digits
            rows.append([name, *("-" if f is None else signed(f.seeds, decimals) for f in found)])
        title, _, unit = _METRICS[metric][0].partition(",")
        header = [f"{title} by hole ratio{',' * bool(unit)}{unit}", *(f"{100 * a:g}-{100 * b:g} %" for a, b in bins)]
        tables += [markdown_table(header, rows)] if rows else []
    return "\n\n".join([*tables, "Differences with their intervals over seeds."]) if tables else ""


def _effects(content: Mapping[str, Any], digits: int) -> str:
    try:
        wanted = effects(content["grid"]["cells"])
    except DataError:
        return ""
    note = "\n\nA main effect is with less without; *a x b* is the effect of a with b less that without."
    return _contrasts(content, "effect", wanted, digits) + note if wanted else ""


def _exception(content: Mapping[str, Any], names: Sequence[str], reference: str) -> str:
    """Which cells had another teacher than the reference."""
    other = other_teachers(content, names, reference)
    return f" ({', '.join(other)} had another teacher)" if other else ""


def _source(content: Mapping[str, Any]) -> str:
    first = content["grid"]["cells"][0]["settings"]
    named = f" ({content['photos_sha256'][:12]})" if "photos_sha256" in content else ""
    text = (
        f"`{content.get('command', 'kdinpaint ablate')}`; seeds {', '.join(map(str, content['seeds']))}; "
        f"{first['data']['size']} px, {first['student']['optim']['steps']} steps of batch "
        f"{first['student']['optim']['batch']}, averaged weights; "
        f"{content['photos']['train']} training photographs{named}, "
        f"{len(content['ratio'])} pairs from {content['photos']['held_out']} others, "
        f"manifest {content['manifest'][:12]}; {_machine(content)}."
    )
    if content.get("earlier"):
        text += f" Some of the runs: {'; '.join(map(_machine, content['earlier']))}."
    if content["failures"]:
        text += f" Failed: {'; '.join(f'{name} ({why})' for name, why in content['failures'].items())}."
    return text


def _machine(content: Mapping[str, Any]) -> str:
    environment = content["environment"]
    where = environment.get("gpu") if content["device"] != "cpu" and "gpu" in environment else environment["processor"]
    return f"{where}, torch {environment['torch']}"
