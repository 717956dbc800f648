"""Grids as data: the named ones, and those read from a TOML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation.settings import CellSettings, change
from kdinpaint.ablation.values import near, read_toml

__all__ = ["GRIDS", "Cell", "Grid", "load_grid"]


@dataclass(frozen=True)
class Cell:
    """One variant.

    Attributes:
        name: How tables call it.
        overrides: What differs from the base, by dotted name; see `change`.
        match: Name of a cell whose number of parameters this one is to have; `scale` is adapted to that end.
        scale: "model.channels" (all widths) or "model.filler_width".
        factors: Level of each factor, for factorial grids: 0 or 1.
    """

    name: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    match: str | None = None
    scale: str = "model.filler_width"
    factors: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Cells that are trained in the same way but for their overrides, and the one the others are compared with.

    Attributes:
        name: Of the grid.
        cells: At least one.
        reference: Name of the cell that differences are taken from.
        question: What the grid asks.

    Raises:
        ConfigError: No cells, a name twice, a name that cannot be a folder, or a reference or match that there is not.
    """

    name: str
    cells: tuple[Cell, ...]
    reference: str
    question: str = ""

    def __post_init__(self) -> None:
        names = [cell.name for cell in self.cells]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise ConfigError(
                f"grid {self.name} has {len(names)} cells, {twice or 'none'} twice; expected distinct ones."
            )
        for name in names:
            if not name or name.startswith(".") or any(c in name for c in '/\\:*?"<>|'):
                raise ConfigError(f"the cell name {name!r} cannot name a folder; use letters, digits, spaces, + and -.")
        wanted = [self.reference, *(cell.match for cell in self.cells if cell.match is not None)]
        for name in wanted:
            if name not in names:
                raise ConfigError(f"grid {self.name} has no cell {name!r}; {near(name, names)}")

    def select(self, names: Sequence[str]) -> "Grid":
        """The grid with some of its cells; the reference, and what others match in size, stay as they are.

        Raises:
            ConfigError: There is no such cell.
        """
        known = {cell.name: cell for cell in self.cells}
        for name in names:
            if name not in known:
                raise ConfigError(f"grid {self.name} has no cell {name!r}; {near(name, list(known))}")
        needed = {*names, *(known[n].match for n in names)} if names else set(known)
        cells = tuple(cell for cell in self.cells if cell.name in needed)
        reference = self.reference if self.reference in needed else cells[0].name
        return Grid(self.name, cells, reference, self.question)

    def resolve(self, base: CellSettings) -> dict[str, CellSettings]:
        """The settings of every cell, by name; sizes are not matched yet.

        Raises:
            ConfigError: An override does not fit; the message names the cell.
        """
        found = {}
        for cell in self.cells:
            settings = base
            for name, value in cell.overrides.items():
                try:
                    settings = change(settings, name, value)
                except ConfigError as error:
                    raise ConfigError(f"cell {cell.name!r}: {error}") from error
            found[cell.name] = settings
        return found


CROSS, SELF = "student.distill.cross", "student.distill.self_distill"
_OFF = {CROSS: 0.0, SELF: 0.0}
_BARE = {"model.filler": "none", "model.attention": None, **_OFF}


def _without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in _BARE.items() if name not in names}


def _factorial() -> tuple[Cell, ...]:
    cells = []
    for number in range(8):
        on = {"cross": number & 1, "self": number >> 1 & 1, "filler": number >> 2}
        overrides: dict[str, Any] = {"model.attention": None}
        overrides |= {} if on["filler"] else {"model.filler": "none"}
        overrides |= {} if on["cross"] else {CROSS: 0.0}
        overrides |= {} if on["self"] else {SELF: 0.0}
        name = " ".join(f"+{part}" for part in ("filler", "cross", "self") if on[part]) or "plain"
        cells.append(Cell(name, overrides, factors=on))
    return tuple(cells)


_PARTS = (
    Cell("plain", _BARE),
    Cell("+filler", _without("model.filler")),
    Cell("+cross", _without(CROSS)),
    Cell("+self", _without(SELF)),
    Cell("+filler +cross +self", {"model.attention": None}),
    Cell("all", {}),
)
_FILLED = {"model.attention": None, **_OFF}
_CAPACITY = (
    Cell("filler", _FILLED),
    Cell("no filler", _BARE),
    Cell("no filler, wider", _BARE, match="filler", scale="model.channels"),
    Cell("filler everywhere", {**_FILLED, "model.filler_region": "everywhere"}),
    Cell("plain filler, same size", {**_FILLED, "model.filler_conv": "plain"}, match="filler"),
    Cell("gated filler, same size", {**_FILLED, "model.filler_conv": "gated"}, match="filler"),
    Cell("serial filler", {**_FILLED, "model.filler": "serial"}),
)
_ADAPTIVE = (
    Cell("plain 3x3", {**_FILLED, "model.filler_conv": "plain"}, match="both"),
    Cell("dilated 2, 4", {**_FILLED, "model.filler_conv": "dilated"}, match="both"),
    Cell("kernel only", {**_FILLED, "model.filler_conv": "kernel"}, match="both"),
    Cell("offsets only", {**_FILLED, "model.filler_conv": "offsets"}, match="both"),
    Cell("both", _FILLED),
)
_DISTILL = "student.distill."
# Predictors start uniform: in a few hundred steps, Adam at 1e-3 every tenth step hardly moves them.
_META = {_DISTILL + "importance": "meta", _DISTILL + "meta_every": 2, _DISTILL + "meta_lr": 0.01}
_IMPORTANCE = (
    Cell("no distillation", _OFF),
    Cell("uniform", {_DISTILL + "importance": "uniform"}),
    Cell("fixed random", {_DISTILL + "importance": "random"}),
    Cell("joint", {_DISTILL + "importance": "joint"}),
    *(Cell(method, {**_META, _DISTILL + "meta_method": method}) for method in ("align", "lookahead", "l2t")),
)
_TEACHERS: Mapping[str, Mapping[str, Any]] = {
    "trained": {},
    "random": {"teacher.kind": "random"},
    "over-complete": {"teacher.code_channels": 192},
}
_TEACHER = tuple(
    Cell(f"{teacher} teacher{', distilled' if distilled else ''}", {**overrides, **({} if distilled else _OFF)})
    for teacher, overrides in _TEACHERS.items()
    for distilled in (False, True)
)
_STRONG = {CROSS: 0.1}
_READ = {**_STRONG, SELF: 0.0, "student.init": "scratch"}
_PRETRAINED = (
    Cell("no distillation", {**_OFF, "student.init": "scratch"}),
    Cell("trained teacher", {**_READ, _DISTILL + "aligner": "student"}),
    Cell("random teacher", {**_READ, _DISTILL + "aligner": "student", "teacher.kind": "random"}),
    Cell("timm teacher", {**_READ, "teacher.kind": "timm"}),  # whose other widths bring a readout with them
)
_FORMS = (
    Cell("no cross", {CROSS: 0.0}),
    Cell("0.01", {CROSS: 0.01}),
    Cell("0.1", _STRONG),
    Cell("near the rim", {**_STRONG, _DISTILL + "rim": 1.0}),
    Cell("coarse content", {**_STRONG, _DISTILL + "low_pass": 4}),
    Cell("cosine", {**_STRONG, _DISTILL + "distance": "cosine"}),
    Cell("heteroscedastic", {**_STRONG, _DISTILL + "distance": "heteroscedastic"}),
    Cell("everywhere first", {**_STRONG, _DISTILL + "everywhere_first": 0.3}),
    Cell("projected", {**_STRONG, _DISTILL + "balance": "project"}),
    Cell("off for the last half", {**_STRONG, _DISTILL + "off_last": 0.5}),
)
_ALIGNER = (
    Cell("no cross", {CROSS: 0.0}),
    Cell("0.1", _STRONG),
    Cell("aligned 0.1", {**_STRONG, _DISTILL + "aligner": "student"}),
    Cell("aligned 1", {CROSS: 1.0, _DISTILL + "aligner": "student"}),
)
_WHERE = (
    Cell("no cross", {CROSS: 0.0}),
    *(Cell(region, {**_STRONG, _DISTILL + "region": region}) for region in ("hole", "known", "all")),
)
_DEEPEST = tuple(
    Cell(f"{name}{end}", {**overrides, **alone})
    for name, overrides in (
        ("no cross", {CROSS: 0.0}),
        ("deepest level", {**_STRONG, _DISTILL + "level_weights": (0.0, 0.0, 1.0)}),  # of a student with three levels
        ("all levels", _STRONG),
    )
    for end, alone in (("", {SELF: 0.0}), (", self", {}))
)
_SELF = (
    Cell("no self", {SELF: 0.0}),
    Cell("self", {}),
    Cell("from the start", {_DISTILL + "self_ramp": 0.0}),
    Cell("pulls both levels", {_DISTILL + "detach_target": False}),
)
_DECODER = (
    Cell("no attention", {"model.attention": None}),
    *(Cell(fusion, {"model.attention": fusion}) for fusion in ("attention", "local", "sum", "concat", "fuse")),
    Cell("fuse, attention transfer", {"teacher.attention": True, _DISTILL + "attention_transfer": 0.1}),
)
_INIT = tuple(
    Cell(name, {**overrides, "student.init": init})
    for init, end in (("teacher", ""), ("encoder", ", encoder alone"), ("scratch", ", scratch"))
    for name, overrides in ((f"plain{end}", _BARE), (f"distilled{end}", {}))
)

_FORCING = tuple(
    Cell(f"{name}{end}", {**overrides, _DISTILL + "teacher_forcing": share})
    for name, overrides in (("plain", _BARE), ("distilled", {}))
    for end, share in (("", 0.0), (", forced", 0.75))
)

GRIDS: Mapping[str, Grid] = MappingProxyType(
    {
        grid.name: grid
        for grid in (
            Grid("parts", _PARTS, "plain", "What does each part of the method add to the plain network?"),
            Grid("factorial", _factorial(), "plain", "Cross x self distillation x filler: effects and interactions."),
            Grid("capacity", _CAPACITY, "filler", "Is the filler's gain more than its parameters?"),
            Grid("adaptive_conv", _ADAPTIVE, "plain 3x3", "Which half of the adaptive convolution matters?"),
            Grid("importance", _IMPORTANCE, "uniform", "Do learned channel weights matter?"),
            Grid(
                "init", _INIT, "plain", "Does the start from the teacher's weights matter, with and without the method?"
            ),
            Grid("forcing", _FORCING, "plain", "Does teacher forcing help, with and without the method?"),
            Grid("forms", _FORMS, "no cross", "Which form of cross distillation pays?"),
            Grid("aligner", _ALIGNER, "no cross", "May the student keep a code of its own under cross distillation?"),
            Grid("where", _WHERE, "no cross", "Which cells should cross distillation compare?"),
            Grid("deepest", _DEEPEST, "no cross", "Does self distillation pass on what the deepest level learns?"),
            Grid("self", _SELF, "no self", "Which form of self distillation pays?"),
            Grid("decoder", _DECODER, "no attention", "What do attention and its fusion bring to the decoder?"),
            Grid("teacher", _TEACHER, "trained teacher", "Does it matter what the teacher knows?"),
            Grid("pretrained", _PRETRAINED, "no distillation", "Do features that were learned elsewhere teach?"),
        )
    }
)
"""The named grids."""


def load_grid(name: str | Path) -> Grid:
    """A named grid, or one from a TOML file.

    The file has `name`, `reference` and, optionally, `question`; then a table `[cells."NAME"]` a cell, with its
    overrides under quoted dotted names, and optionally `match`, `scale` and `factors`::

        name = "weights"
        reference = "off"
        [cells.off]
        "student.distill.cross" = 0.0
        [cells.strong]
        "student.distill.cross" = 0.5

    Args:
        name: One of `GRIDS`, or the path of a file that ends in .toml.

    Raises:
        ConfigError: There is no such grid or file, or it does not describe a grid.

    Example:
        >>> from kdinpaint.ablation import load_grid
        >>> len(load_grid("factorial").cells)
        8
    """
    if str(name) in GRIDS:
        return GRIDS[str(name)]
    path = Path(name)
    if path.suffix != ".toml":
        raise ConfigError(f"there is no grid {str(name)!r}; {near(str(name), list(GRIDS))} Or pass a .toml file.")
    try:
        content = dict(read_toml(path.read_text(encoding="utf-8"), str(path)))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    cells = content.pop("cells", None)
    if not isinstance(cells, dict) or not all(isinstance(table, dict) for table in cells.values()):
        raise ConfigError(f'{path} has no tables [cells."NAME"]; see the documentation of load_grid.')
    reference = content.pop("reference", next(iter(cells), ""))
    grid_name, question = content.pop("name", path.stem), content.pop("question", "")
    if content:
        known = ["name", "reference", "question", "cells"]
        raise ConfigError(f"{path} has {next(iter(content))!r}; {near(next(iter(content)), known)}")
    return Grid(grid_name, tuple(_cell(key, dict(table)) for key, table in cells.items()), reference, question)


def _cell(name: str, table: dict[str, Any]) -> Cell:
    match, scale = table.pop("match", None), table.pop("scale", "model.filler_width")
    factors = table.pop("factors", {})
    if scale not in ("model.channels", "model.filler_width"):
        raise ConfigError(f"cell {name!r}: scale is {scale!r}; expected model.channels or model.filler_width.")
    return Cell(name, dict(_flat(table)), match, scale, factors)


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested tables and quoted dotted names alike, as dotted names."""
    return [
        leaf
        for key, value in table.items()
        for leaf in (_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)])
    ]
