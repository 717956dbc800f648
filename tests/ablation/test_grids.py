"""Grids as data, overrides with types, networks that share weights."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation import GRIDS, Cell, CellSettings, Grid, change, load_grid
from kdinpaint.ablation.networks import LeadingChannels, make_student, make_teacher, match_sizes, parameters_of
from kdinpaint.ablation.values import parse_assignment
from kdinpaint.cli.ablate import AblateConfig
from kdinpaint.distill.meta import MetaMethod

BASE = CellSettings()


@pytest.mark.parametrize("name", GRIDS)
def test_every_named_grid_can_be_built_and_matched(name: str) -> None:
    grid = load_grid(name)
    settings = match_sizes(grid, grid.resolve(BASE))
    sizes = {cell: parameters_of(one) for cell, one in settings.items()}
    for cell in grid.cells:
        if cell.match is not None:
            assert sizes[cell.name] == pytest.approx(sizes[cell.match], rel=0.02), cell.name


def test_the_factorial_has_all_combinations_and_differs_in_nothing_else() -> None:
    cells = load_grid("factorial").cells
    assert len({tuple(cell.factors.values()) for cell in cells}) == 8
    for name, one in load_grid("factorial").resolve(BASE).items():
        assert ("filler" in name) == ("filler" not in one.options)
        assert ("cross" in name) == bool(one.student.distill.cross)
        assert ("self" in name) == bool(one.student.distill.self_distill)


def test_every_named_grid_is_in_the_help_and_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs/use/ablate.md").read_text(encoding="utf-8")
    told = inspect.getsource(AblateConfig).partition("out: Path")[0]
    for name in GRIDS:
        assert f"| `{name}` |" in page
        assert re.search(rf"\b{name}\b", told), name


def test_the_importance_grid_has_every_method_and_weights_can_move() -> None:
    found = load_grid("importance").resolve(BASE)
    learned = {name: one.student.distill for name, one in found.items() if name in get_args(MetaMethod)}
    assert set(learned) == set(get_args(MetaMethod))
    for name, distill in learned.items():
        assert (distill.importance, distill.meta_method) == ("meta", name)
        assert distill.meta_lr / distill.meta_every >= 0.005, "300 steps of Adam then sum to more than 1"


def test_the_deepest_level_weighs_the_same_with_and_without_the_others() -> None:
    cells = {name: one.student.distill for name, one in load_grid("deepest").resolve(BASE).items()}
    assert (cells["deepest level"].level_weights, cells["all levels"].level_weights) == ((0, 0, 1), "equal")
    assert cells["deepest level"].cross == cells["all levels"].cross == cells["all levels, self"].cross == 0.1
    assert [name for name, one in cells.items() if one.self_distill] == [name for name in cells if "self" in name]
    with pytest.raises(ConfigError, match=r"expected 2 numbers, one for each level"):
        parameters_of(replace(load_grid("deepest").resolve(BASE)["deepest level"], options={"channels": [4, 6]}))


def test_overrides_reach_every_kind_of_setting() -> None:
    settings = change(BASE, "student.optim.steps", 7)
    settings = change(settings, "student.optim.clip_norm", "none")
    settings = change(settings, "data.hole_ratio", [0.1, 0.3])
    settings = change(settings, "model", "kdinpaint_small_plain")
    settings = change(settings, "model.channels", [8, 16])
    assert settings.student.optim.steps == 7
    assert settings.student.optim.clip_norm is None
    assert settings.data.hole_ratio == (0.1, 0.3)
    assert (settings.model, settings.options) == ("kdinpaint_small_plain", {"channels": [8, 16]})
    assert CellSettings() == BASE, "settings are values"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("student.distil.cross", 1, "did you mean distill"),
        ("student.distill.cros", 1, "did you mean cross"),
        ("student.distill.cross", "much", "is 'much', a str; expected float"),
        ("student.distill.importance", "unifrom", "did you mean uniform"),
        ("student.optim.steps", 1.5, "expected int"),
        ("student.optim.steps", True, "expected int"),
        ("student.distill", 1, "is a group of settings"),
        ("student.init.x", 1, "is a single value"),
        ("model.filer", "none", "did you mean filler"),
        ("model.filler", "parralel", "did you mean parallel"),
        ("model", "kdinpaint_tinny", "did you mean kdinpaint_tiny"),
        ("data.hole_ratio", [0.1], "expected"),
        ("nothing", 1, "there is no setting 'nothing'"),
        ("options", {}, "write model.NAME"),
    ],
)
def test_a_wrong_override_says_what_is_right(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change(BASE, name, value)


def test_assignments_are_read_as_toml_and_else_as_text() -> None:
    assert parse_assignment("a.b=0.5") == ("a.b", 0.5)
    assert parse_assignment("a=true") == ("a", True)
    assert parse_assignment("a=[1, 2]") == ("a", [1, 2])
    assert parse_assignment("a=word") == ("a", "word")
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        parse_assignment("a")


def test_a_grid_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'reference = "off"\n[cells.off]\n"student.distill.cross" = 0\n'
        '[cells.strong.student.distill]\ncross = 0.5\n[cells."small, plain"]\nmodel.filler = "none"\nmatch = "off"\n'
        'scale = "model.channels"\n'
    )
    grid = load_grid(path)
    assert (grid.name, grid.reference, [c.name for c in grid.cells]) == (
        "mine",
        "off",
        ["off", "strong", "small, plain"],
    )
    found = grid.resolve(BASE)
    assert [one.student.distill.cross for one in found.values()] == [0.0, 0.5, 0.01]
    assert found["small, plain"].options == {"filler": "none"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells = 3", "no tables"),
        ("[cells.a]\n[cells.b]\n[other]", "did you mean|expected one of"),
        ('reference = "c"\n[cells.a]', "no cell 'c'"),
        ('[cells."a/b"]', "cannot name a folder"),
        ('[cells.a]\nmatch = "b"', "no cell 'b'"),
        ('[cells.a]\nscale = "x"', "expected model.channels"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_grid(tmp_path / "g.toml")


def test_unknown_grids_and_cells() -> None:
    with pytest.raises(ConfigError, match="did you mean parts"):
        load_grid("part")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_grid("missing.toml")
    with pytest.raises(ConfigError, match=r"did you mean .*plain"):
        load_grid("parts").select(["plane"])
    with pytest.raises(ConfigError, match="twice"):
        Grid("g", (Cell("a"), Cell("a")), "a")
    wrong = Grid("g", (Cell("a", {"student.distill.cros": 1}),), "a")
    with pytest.raises(ConfigError, match=r"cell 'a': .*cros"):
        wrong.resolve(BASE)


def test_a_selection_keeps_what_it_needs() -> None:
    chosen = load_grid("capacity").select(["no filler, wider"])
    assert [cell.name for cell in chosen.cells] == ["filler", "no filler, wider"]
    chosen = load_grid("parts").select(["+cross", "all"])
    assert (chosen.reference, len(chosen.cells)) == ("+cross", 2)
    assert load_grid("parts").select([]) == load_grid("parts")


def test_cells_start_from_equal_weights_wherever_they_share_a_layer() -> None:
    cells = load_grid("parts").resolve(BASE)
    plain, full = (make_student(cells[name], 5).state_dict() for name in ("plain", "all"))
    assert set(plain) < set(full)
    assert all(torch.equal(plain[name], full[name]) for name in plain)
    variants = load_grid("adaptive_conv").resolve(BASE)
    one, other = (make_student(variants[name], 5).state_dict() for name in ("plain 3x3", "both"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(next(iter(make_student(BASE, 6).state_dict().values())), next(iter(full.values())))


def test_drawing_weights_again_leaves_a_fresh_filler_silent() -> None:
    net = make_student(BASE, 0)
    x, mask = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 4:9] = 1
    silent = make_student(change(BASE, "model.filler", "none"), 0)
    assert torch.equal(net(x, mask), silent(x, mask))


def test_a_wider_teacher_serves_its_leading_channels() -> None:
    wide = make_teacher(change(BASE, "teacher.code_channels", 192), 0)
    student = make_student(BASE, 0)
    cut = LeadingChannels(wide, student.channels)
    image = torch.rand(1, 3, 16, 16)
    assert [f.shape[1] for f in cut.encode(image)] == list(student.channels)
    student.encoder.load_from(wide.encoder, leading=True)
    found = student.encode(image, torch.zeros(1, 1, 16, 16))
    torch.testing.assert_close(found[:2], cut.encode(image)[:2])
    with pytest.raises(RuntimeError, match="size"):
        student.encoder.load_from(wide.encoder)


def test_an_option_that_the_network_refuses_is_an_error_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="cannot be built"):
        parameters_of(change(BASE, "model.filler_width", -1.0))
