"""`kdinpaint table`, on results that `kdinpaint evaluate` and `kdinpaint train` write."""

import json

import pytest
import stand_ins

from kdinpaint import create_model
from kdinpaint.cli.main import main
from kdinpaint.metrics import RatioTable
from kdinpaint.models import save_model


def write(folder, psnr, *, protocol="default", manifest="a" * 64, dataset="celeba", models=("student",)):
    """A metrics.json as an evaluation writes it."""
    table = RatioTable()
    for low in range(6):
        table.add([low / 10 + 0.05] * 2, {"psnr": [psnr - low, psnr - low - 1], "ssim": [0.9, 0.92]})
    folder.mkdir(parents=True, exist_ok=True)
    content = {"protocol": protocol, "manifest": manifest, "models": {name: table.summary() for name in models}}
    (folder / "metrics.json").write_text(json.dumps(content))
    if dataset is not None:
        (folder / "config.json").write_text(json.dumps({"data": {"dataset": dataset}}))


def table(capsys, *arguments):
    main(["table", *map(str, arguments)])
    return capsys.readouterr().out


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["table", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def cells(text, method):
    row = next(line for line in text.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_methods_beside_the_paper(tmp_path, capsys):
    write(tmp_path / "ours", 34)
    write(tmp_path / "gc", 33)
    write(tmp_path / "paris", 30, dataset="paris", manifest="b" * 64)
    text = table(capsys, tmp_path / "ours", f"GC={tmp_path / 'gc'}", f"ours={tmp_path / 'paris'}")
    assert cells(text, "ours") == ["32.50 ± 0.50", "30.50 ± 0.50", "28.50 ± 0.50", "26.50 ± 0.50"]
    assert cells(text, "GC") == ["31.50 ± 0.50", "29.50 ± 0.50", "-", "-"]
    assert cells(text, "*Ours* †")[0] == "*33.86*†"
    assert f"celeba {'a' * 12}, paris {'b' * 12}" in text


def test_files_in_three_forms(tmp_path, capsys):
    write(tmp_path / "ours", 34)
    text = table(capsys, tmp_path / "ours", "--out", tmp_path / "t", "--all-bins", "--no-published")
    assert {p.name for p in (tmp_path / "t").iterdir()} == {"table.md", "table.csv", "table.tex"}
    assert (tmp_path / "t" / "table.md").read_text().strip() in text
    assert len((tmp_path / "t" / "table.csv").read_text().splitlines()) == 1 + 2 * 6
    assert "CelebA 50-60 %" in text
    assert "†" not in text


def test_several_models_of_a_run_have_names_of_their_own(tmp_path, capsys):
    write(tmp_path / "demo", 30, models=("plain", "distilled"), dataset=None)
    text = table(capsys, tmp_path / "demo")
    assert cells(text, "demo plain") == cells(text, "demo distilled")
    assert "photos 10-20 %" in text


def test_protocols_are_not_mixed(tmp_path, capsys):
    write(tmp_path / "a", 30)
    write(tmp_path / "b", 31, protocol="edgeconnect")
    said = fails(capsys, tmp_path / "a", tmp_path / "b")
    assert "was measured under edgeconnect, not under default. Protocols cannot be mixed" in said
    assert "--protocol default" in said
    write(tmp_path / "a" / "evaluation" / "aaaa-edgeconnect", 29, protocol="edgeconnect", dataset=None)
    text = table(capsys, tmp_path / "a", tmp_path / "b", "--protocol=edgeconnect")
    assert cells(text, "a")[0] == "27.50 ± 0.50"
    assert "protocol edgeconnect" in text


def test_manifests_are_not_mixed_and_the_shared_one_is_found(tmp_path, capsys):
    write(tmp_path / "a", 30, manifest="a" * 64)
    write(tmp_path / "b", 31, manifest="b" * 64)
    said = fails(capsys, tmp_path / "a", tmp_path / "b")
    assert "celeba: the runs were measured on different manifests" in said
    assert "--manifest FILE" in said
    write(tmp_path / "a" / "evaluation" / "bbbb", 29, manifest="b" * 64, dataset=None)
    text = table(capsys, tmp_path / "a", tmp_path / "b")
    assert (cells(text, "a")[0], cells(text, "b")[0]) == ("27.50 ± 0.50", "29.50 ± 0.50")
    write(tmp_path / "b" / "evaluation" / "aaaa", 28, manifest="a" * 64, dataset=None)
    assert "share several manifests" in fails(capsys, tmp_path / "a", tmp_path / "b")
    assert cells(table(capsys, tmp_path / "a", tmp_path / "b", "--manifest=aaa"), "b")[0] == "26.50 ± 0.50"


def test_a_run_that_was_evaluated_again_on_its_own_manifest_stands_once(tmp_path, capsys):
    for name, psnr in (("a", 30), ("b", 31)):
        write(tmp_path / name, psnr)
        write(tmp_path / name / "evaluation" / "aaaa", psnr, dataset=None)
    text = table(capsys, f"ours={tmp_path / 'a'}", f"plain={tmp_path / 'b'}")
    assert (cells(text, "ours")[0], cells(text, "plain")[0]) == ("28.50 ± 0.50", "29.50 ± 0.50")


def test_mistakes(tmp_path, capsys):
    assert "holds no metrics.json" in fails(capsys, tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert "holds no results (KeyError" in fails(capsys, tmp_path)
    write(tmp_path, 30)
    assert "no results on a manifest that starts with 'zz'" in fails(capsys, tmp_path, "--manifest=zz")
    assert "metrics are ['fid']" in fails(capsys, tmp_path, "--metrics", "fid")
    assert "there is no run" in fails(capsys)


def test_evaluate_writes_what_table_reads(tmp_path, capsys):
    for number in range(3):
        stand_ins.save(tmp_path / "photos", f"{number}.png", stand_ins.picture(number, (64, 64)))
    for name in ("first", "second"):
        save_model(create_model("kdinpaint_tiny"), tmp_path / name)
    where = [f"--photos={tmp_path / 'photos'}", "--size=64", "--per-bin=2", "--device=cpu", "--protocol=lama"]
    main(["evaluate", str(tmp_path / "first"), *where])
    (folder,) = (tmp_path / "first" / "evaluation").iterdir()
    assert folder.name.endswith("-lama")
    main(["evaluate", str(tmp_path / "second"), *where, f"--manifest={folder / 'manifest.json'}"])
    capsys.readouterr()
    text = table(capsys, tmp_path / "first", tmp_path / "second", "--protocol=lama")
    assert text.startswith("| SSIM ")
    assert "PSNR" not in text, "lama has none"
    assert len(cells(text, "second")) == 2


def test_evaluate_adds_perceptual_metrics_of_the_composites(tmp_path, capsys, monkeypatch):
    """With a stand-in for the networks whose weights would be fetched: it sees known pixels as they are."""
    seen = []

    class Recorder:
        def __init__(self, device):
            pass

        def update(self, preds, target):
            seen.append((preds == target).all(1).float().mean((1, 2)))

        def compute(self):
            return {"lpips": 0.25, "fid": 12.5}

    monkeypatch.setattr("kdinpaint.cli.evaluate.PerceptualMetrics", Recorder)
    stand_ins.save(tmp_path / "photos", "0.png", stand_ins.picture(0, (64, 64)))
    save_model(create_model("kdinpaint_tiny"), tmp_path / "net")
    where = [f"--photos={tmp_path / 'photos'}", "--size=64", "--per-bin=1", "--device=cpu", "--perceptual"]
    main(["evaluate", str(tmp_path / "net"), *where])
    assert "net: lpips 0.2500, fid 12.5000" in capsys.readouterr().out
    (folder,) = (tmp_path / "net" / "evaluation").iterdir()
    content = json.loads((folder / "metrics.json").read_text())
    assert content["perceptual"] == {"net": {"lpips": 0.25, "fid": 12.5}}
    known = [1 - record["ratio"] for record in content["models"]["net"]["records"]]
    assert [float(share) for part in seen for share in part] == pytest.approx(known, abs=0.02)
