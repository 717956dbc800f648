"""Tables and pictures of a result with known numbers."""

import json
from pathlib import Path

import pytest
from ablation_results import result
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.ablation import interval, report
from kdinpaint.ablation.figures import draw_figures
from kdinpaint.cli.main import main


def test_differences_and_intervals_stand_in_the_table() -> None:
    content = result({"plain": {}, "ours": {}})
    means = [
        sum(content["results"]["ours"][s]["records"]["psnr"]) / 12
        - sum(content["results"]["plain"][s]["records"]["psnr"]) / 12
        for s in "012"
    ]
    found = interval(means)
    text = report(content)
    mark = "" if found.clear else " *noise*"
    assert f"| ours | {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]{mark} |" in text
    assert "kdinpaint ablate made-up" in text
    assert "0.90, -" in text, "a level without a gap"
    assert "| 0.50 | -0.10 |" in text, "share of effective channels, correlation"


def test_features_have_the_columns_that_were_measured() -> None:
    content = result({"plain": {}, "ours": {}})
    assert "| 0.90, - | 0.70, 0.50 | 0.60 | 0.80, 0.60 |" in report(content)
    for runs in content["results"].values():
        for run in runs.values():
            del run["mechanism"]["readout_gap"]
    text = report(content)
    assert "| 0.90, - | 0.80, 0.60 |" in text
    assert "eadout" not in text


def test_a_small_difference_is_called_noise() -> None:
    content = result({"plain": {}, "ours": {}})
    for seed, shift in zip("012", (0.1, -0.1, 0.02), strict=True):
        plain = content["results"]["plain"][seed]["records"]["psnr"]
        content["results"]["ours"][seed]["records"]["psnr"] = [v + shift for v in plain]
    row = next(line for line in report(content).splitlines() if line.startswith("| ours | +0.01 ["))
    assert row.count("*noise*") >= 1


def test_another_reference_and_unfinished_cells() -> None:
    content = result({"plain": {}, "ours": {}, "late": {}})
    content["results"]["late"] = {}
    content["failures"] = {"late, seed 0": "no memory"}
    text = report(content, reference="ours")
    assert "Difference from **ours**" in text
    assert "Failed: late, seed 0 (no memory)" in text
    with pytest.raises(ConfigError, match="did you mean plain"):
        report(content, reference="plane")
    with pytest.raises(DataError, match="no results yet"):
        report(content, reference="late")


def test_effects_are_there_for_a_complete_factorial_only() -> None:
    cells = {f"{a}{b}": {"a": a, "b": b} for a in (0, 1) for b in (0, 1)}
    assert "| a x b |" in report(result(cells))
    del cells["11"]
    assert "a x b |" not in report(result(cells))


def test_one_seed_has_no_interval() -> None:
    text = report(result({"plain": {}, "ours": {}}, seeds=1))
    assert "(one)" in text
    assert not any("noise" in line for line in text.splitlines() if line.startswith("|"))


@pytest.mark.parametrize("seeds", [1, 3])
def test_pictures(seeds: int, tmp_path: Path) -> None:
    drawn = draw_figures(result({"plain": {}, "ours": {}}, seeds=seeds), tmp_path)
    assert [path.name for path in drawn] == ["made-up_forest.png", "made-up_steps.png", "made-up_holes.png"]
    for path in drawn:
        with Image.open(path) as image:
            assert image.width > 500


def test_no_curves_no_picture_of_them(tmp_path: Path) -> None:
    content = result({"plain": {}, "ours": {}})
    for runs in content["results"].values():
        for run in runs.values():
            run["curve"] = []
    assert [path.name for path in draw_figures(content, tmp_path)] == ["made-up_forest.png", "made-up_holes.png"]
    with pytest.raises(ConfigError, match="did you mean plain"):
        draw_figures(content, tmp_path, reference="plane")
    content["results"]["ours"] = {}
    with pytest.raises(DataError, match="to its end"):
        draw_figures(content, tmp_path)


def test_the_command_prints_writes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(result({"plain": {}, "ours": {}})))
    main(["ablate-report", str(file)])
    assert "Difference from **plain**" in capsys.readouterr().out
    main(["ablate-report", str(file), f"--out={tmp_path / 'r.md'}", f"--figures={tmp_path / 'f'}"])
    assert "Difference from **plain**" in (tmp_path / "r.md").read_text()
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert names == {"x_forest.png", "x_steps.png", "x_holes.png"}, "two results of one grid can share a folder"
    file.write_text("{}")
    with pytest.raises(SystemExit):
        main(["ablate-report", str(file)])
    assert "is not the result of an ablation" in capsys.readouterr().err
