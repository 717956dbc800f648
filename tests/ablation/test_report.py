"""Tables and pictures of a result with known numbers."""

import json
from pathlib import Path

import pytest
from ablation_results import result
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.ablation import interval, report
from kdinpaint.ablation.figures import draw_figures
from kdinpaint.ablation.statistics import contrast, hole_bins
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


def test_gaps_are_compared_level_by_level_with_intervals() -> None:
    content = result({"plain": {}, "ours": {}})
    shifts = {"0": (-0.5, 0.1), "1": (-0.6, -0.1), "2": (-0.4, 0.0)}
    for seed, (first, second) in shifts.items():
        ours = content["results"]["ours"][seed]["mechanism"]
        ours["hole_gap"][0]["all"] += first
        ours["readout_gap"][1]["all"] += second
    one, other = (interval([shift[n] for shift in shifts.values()]) for n in (0, 1))
    assert one.clear
    assert not other.clear
    row = f"| ours | -0.50 [{one.low:+.2f}, {one.high:+.2f}] | - | +0.00 [+0.00, +0.00] *noise* | "
    assert f"{row}+0.00 [{other.low:+.2f}, {other.high:+.2f}] *noise* |" in report(content).replace(
        "-0.00 [", "+0.00 ["
    )


def test_cells_with_another_teacher_are_named_and_their_gaps_not_compared() -> None:
    content = result({"plain": {}, "ours": {}, "random": {}})
    assert "another teacher" not in report(content), "nothing recorded, as in older results"
    for name, runs in content["results"].items():
        for seed, run in runs.items():
            run["teacher"] = f"seed-{seed}-{'b' if name == 'random' else 'a'}"
    text = report(content)
    assert "Difference from **plain** (random had another teacher):" in text
    assert "cannot be compared: random." in text
    assert text.count("| random |") == text.count("| ours |") - 1
    assert "**random** (plain, ours had another teacher):" in report(content, reference="random")


def test_features_by_ratio_and_depth_where_they_were_measured() -> None:
    content = result({"plain": {}, "ours": {}})
    assert "gap by hole ratio" not in report(content)
    for number, runs in enumerate(content["results"].values()):
        for run in runs.values():
            found = run["mechanism"]
            found["depth"] = {"edges": [4, 8], "pairs": [6, 0, 6]}
            for level in found["hole_gap"]:
                level |= {"bins": [0.1 + number, 0.2, 0.3, 0.4, 0.5, None], "depth": [0.25 + number, None, 0.75]}
            for level in found["mask_probe_auc"]:
                level["bins"] = [0.6] * 6
            entry = found["importance"]["cross"][0]
            for key, value in (("effective_channels", 4.0), ("correlation", -0.1)):
                entry[key] = {"all": value, "bins": [value / 2] * 6}
    content["results"]["plain"]["0"]["bins"][1]["count"] = 0
    text = report(content)
    assert "| hole gap by hole ratio | 1-10 % | 20-30 % |" in text, "bins without pairs have no column"
    assert "| ours | 1.10, 1.10 | 0.30, 0.30 |" in text
    assert "| ours | 0.60, 0.60 | 0.60, 0.60 |" in text
    assert "| ours | 0.25; -0.05 |" in text
    assert "| hole gap by depth of the hole | 1-4 px | over 8 px |" in text
    assert "| ours | 1.25, 1.25 | 0.75, 0.75 |" in text
    assert "| 0.50 | -0.10 |" in text, "over all pairs"


def test_a_number_that_is_not_known_is_left_out() -> None:
    content = result({"plain": {}, "ours": {}})
    for run in content["results"]["ours"].values():
        run["mechanism"]["importance"]["cross"][0]["effective_channels"] = None
    text = report(content)
    assert "| 0.50 | -0.10 |" in text
    assert "| - | -0.10 |" in text


def test_ssim_by_hole_ratio_and_what_the_time_is() -> None:
    content = result({"plain": {}, "ours": {}})
    values = [contrast(content, {"ours": 1.0, "plain": -1.0}, "ssim", hole)[0].mean(1) for hole in hole_bins(content)]
    table = report(content).partition("| SSIM by hole ratio | 1-10 %")[2].splitlines()
    assert table[2].startswith(f"| ours | {values[0].mean():+.4f} [")
    assert table[2].count("[") == len(values)
    assert "| training, s (as run) |" in report(content)


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
