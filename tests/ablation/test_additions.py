"""A call with the same result file adds to it, or says why it cannot."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ablation_results import result
from tiny_run import write_photos

from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation import CellSettings, change, load_grid, report
from kdinpaint.ablation.additions import add_to, check_addition, load_result
from kdinpaint.ablation.figures import draw_figures
from kdinpaint.ablation.workers import run_tasks
from kdinpaint.cli.main import main

GRID = load_grid("parts")
BASE = CellSettings()
FACTS = {"manifest": "a" * 64, "photos_sha256": "b" * 64, "photos": {"train": 5, "held_out": 4}, "mask_pool": 8}


def some(cells: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, Any]:
    """A result of some cells of the grid `parts`."""
    content = {**result({name: {} for name in cells}, seeds=max(seeds) + 1), **copy.deepcopy(FACTS)}
    content["seeds"] = list(seeds)
    content["results"] = {
        name: {seed: run for seed, run in runs.items() if int(seed) in seeds}
        for name, runs in content["results"].items()
    }
    settings = GRID.resolve(BASE)
    for cell in content["grid"]["cells"]:
        cell["settings"] = settings[cell["name"]].json()
    content["grid"] |= {"name": "parts", "reference": GRID.select(cells).reference}
    return content


def test_the_command_keeps_earlier_seeds_and_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = write_photos(tmp_path / "photos"), tmp_path / "x.json"

    def call(*more: str) -> dict[str, Any]:
        main([
            "ablate", "parts", f"--photos={folder}", f"--held-out={folder}", f"--out={out}", "--size=32", "--steps=2",
            "--teacher-steps=1", "--batch=2", "--per-bin=1", "--device=cpu", "--mask-pool=8", "--eval-every=0",
            "--set", "model.channels=[4,6]", "student.distill.importance=uniform", *more,
        ])  # fmt: skip
        return json.loads(out.read_text())

    call("--cells", "+filler", "--seeds", "1")
    content = call("--cells", "plain", "--seeds", "0")
    assert {name: list(runs) for name, runs in content["results"].items()} == {"plain": ["0"], "+filler": ["1"]}
    assert [cell["name"] for cell in content["grid"]["cells"]] == ["plain", "+filler"], "in the grid's order"
    assert (content["seeds"], content["grid"]["reference"]) == ([0, 1], "plain")
    assert "--cells plain +filler --seeds 0 1" in content["command"], "the command that makes the whole file"
    assert "plain lacks seed 1" in capsys.readouterr().out

    before = out.read_text()
    monkeypatch.setattr("kdinpaint.ablation.run.run_tasks", lambda *_, **__: pytest.fail("nothing may be trained"))
    for work, options, message in (
        (tmp_path / "x.work", ["--steps=3"], "cell 'plain': student.optim.steps was 2, now 3"),
        (tmp_path / "other", ["--per-bin=2"], "manifest was"),
    ):
        with pytest.raises(SystemExit):
            call(f"--work={work}", "--cells", "+cross", "--seeds", "0", *options)
        told = capsys.readouterr().err
        assert message in told
        assert "choose another --out" in told
    assert out.read_text() == before
    monkeypatch.setattr("kdinpaint.ablation.run.run_tasks", run_tasks)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"manifest": "c" * 64}, "manifest was 'aaa"),
        ({"photos_sha256": "c" * 64}, "photos_sha256 was 'bbb"),
        ({"photos": {"train": 6, "held_out": 4}}, r"photos\.train was 5, now 6"),
        ({"mask_pool": 9}, "mask_pool was 8, now 9"),
    ],
)
def test_other_pairs_and_photos_are_refused(changed: dict[str, Any], message: str) -> None:
    before = some(("plain",), (0,))
    check_addition(before, FACTS, GRID, BASE, "x.json")
    with pytest.raises(ConfigError, match=message):
        check_addition(before, {**FACTS, **changed}, GRID, BASE, "x.json")


def test_other_grids_and_settings_are_refused() -> None:
    before = some(("plain", "all"), (0,))
    with pytest.raises(ConfigError, match="grid 'parts', now 'forms'; it has cells that the grid lacks"):
        check_addition(before, FACTS, load_grid("forms"), BASE, "x.json")
    with pytest.raises(ConfigError, match=r"cell 'plain': data\.recolor was False, now True"):
        check_addition(before, FACTS, GRID, change(BASE, "data.recolor", True), "x.json")


def test_an_older_file_is_compared_by_what_it_records() -> None:
    before = some(("plain",), (0,))
    del before["photos_sha256"], before["mask_pool"]
    check_addition(before, FACTS, GRID, BASE, "x.json")


def test_the_newer_run_and_what_became_of_failures() -> None:
    before, now = some(("plain", "all"), (0, 2)), some(("plain", "+cross"), (1, 2))
    before["failures"] = {"plain, seed 1": "no memory", "all, seed 5": "no memory", "+cross, seed 2": "no memory"}
    now["failures"] = {"+cross, seed 2": "no disk"}
    del now["results"]["+cross"]["2"]
    now["results"]["plain"]["2"]["gmac"] = 7.0
    found = add_to(before, now, GRID, ["plain, seed 1", "plain, seed 2", "+cross, seed 1", "+cross, seed 2"])
    runs = {name: list(of) for name, of in found["results"].items()}
    assert runs == {"plain": ["0", "1", "2"], "+cross": ["1"], "all": ["0", "2"]}
    assert found["results"]["plain"]["2"]["gmac"] == 7.0
    assert found["failures"] == {"all, seed 5": "no memory", "+cross, seed 2": "no disk"}
    assert found["earlier"] == []


def test_machines_of_earlier_runs_are_named_once() -> None:
    first, second = some(("plain",), (0,)), some(("plain",), (1,))
    first["environment"] = {"processor": "an old one", "torch": "1"}
    both = add_to(first, second, GRID, [])
    again = add_to(both, second, GRID, [])
    assert again["earlier"] == [{"environment": first["environment"], "device": "cpu"}]
    assert "Some of the runs: an old one, torch 1." in report(again)


def test_reports_and_pictures_of_cells_that_lack_seeds(tmp_path: Path) -> None:
    content = add_to(some(("plain", "all"), (0, 1)), some(("plain",), (2,)), GRID, [])
    content["results"]["+self"] = {"7": content["results"]["all"]["0"]}
    content["grid"]["cells"].append({**content["grid"]["cells"][0], "name": "+self"})
    content["seeds"].append(7)
    text = report(content)
    assert "plain lacks seed 7; all lacks seed 2, 7; +self lacks seed 0, 1, 2." in text
    assert next(line for line in text.splitlines() if line.startswith("| +self | -")), "no seed in common"
    assert len(draw_figures(content, tmp_path)) == 3
    assert "lacks" not in report(some(("plain", "all"), (0, 1)))


def test_a_file_that_is_no_result_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert load_result(None) is None
    assert load_result(path) is None
    for text in ("not json", "[1]", '{"seeds": []}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not the result of an ablation"):
            load_result(path)
