"""Numbers in the documentation are those of the committed results; the comparisons run, in pieces as in one."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from safetensors.torch import load_file
from small_comparators import small_objective

from kdinpaint.data import demo_photos

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("table1_small", "comparators_retrofitted")


def test_tables_are_what_the_results_give():
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_name_command_and_machine():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        commands = ("python benchmarks/", "kdinpaint bench ", "kdinpaint ablate ", "kdinpaint protocols ")
        assert content["command"].startswith(commands), path.name
        assert {"processor", "threads", "torch", "python"} <= set(content["environment"]), path.name


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """Modules of the comparisons, and how to configure them: two photographs, narrow critics, no VGG, few steps."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("kdinpaint.training.phases.comparator_objective", small_objective)
    field = importlib.import_module("field")
    monkeypatch.setattr(field, "RESULTS", tmp_path / "results")
    photos = demo_photos()
    for name, files in (("photos", photos.train[:1]), ("held_out", photos.held_out[:1])):
        (tmp_path / name).mkdir()
        for file in files:
            shutil.copy(file, tmp_path / name)

    def configured(script, **changes):
        module = importlib.import_module(script)
        options = {"seeds": (0,), "size": 32, "batch": 2, "steps": 6, "budget": ("steps",), "teacher_share": 0.5}
        options |= {"per_bin": 1, "pool": 4, "timing_steps": 1, "vgg": "random", "tiny": True, "device": "cpu"}
        options |= {"work": tmp_path / "work", "name": "test"}
        if script == "table1_small":
            options["ours"] = "kdinpaint_tiny"
        else:
            options["steps"] = 8  # half of them are the teacher's, and EC has four phases
        config = module.Config(photos=tmp_path / "photos", held_out=tmp_path / "held_out", **options)
        return module, replace(config, **changes)

    return configured


def result(tmp_path, script, name="test"):
    return json.loads((tmp_path / "results" / f"{script}_{name}.json").read_text())


def trained(config, script):
    """Bytes of all weights, by place."""
    folder = config.work / script / config.name / "rows"
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("script", SCRIPTS)
def test_comparison_in_both_budgets(comparison, tmp_path, script, capsys):
    methods = ("gc", "plain", "ours") if script == "table1_small" else ("gc",)
    module, config = comparison(script, budget=("steps", "time"), methods=methods)
    assert module.main(config) == 0
    found = result(tmp_path, script)
    assert found["config"]["vgg"] == "random"
    assert str(tmp_path) not in json.dumps(found), "a result names no place of this machine"
    ours = "ours" if script == "table1_small" else "gc, fillers and distillation"
    for budget, part in found["budgets"].items():
        assert part["seeds"] == [0]
        assert len(part["results"]) == 3
        for name, runs in part["results"].items():
            run = runs["0"]
            assert run["steps"] == part["steps"][name], "a teacher and all phases are paid from the budget"
            assert len(run["records"]["psnr"]) == len(found["ratio"]) == 6
            assert min(run[key] for key in ("train_seconds", "images_per_second", "parameters", "milliseconds")) > 0
            assert budget == "time" or run["steps"] == config.steps
    assert found["budgets"]["time"]["steps"][ours] == config.steps, "its time is the budget"
    table = getattr(importlib.import_module("field_tables"), script)(found)
    assert table.count(" (noise)") == 0, "one seed says nothing about seeds"
    assert "**Equal wall time**" in table
    assert "a dry run" in table


@pytest.mark.parametrize(
    ("script", "methods"), [("table1_small", ("pic", "pc", "ec", "ours")), ("comparators_retrofitted", ("pc", "ec"))]
)
def test_pieces_end_with_the_same_bits(comparison, tmp_path, script, methods):
    module, config = comparison(script, methods=methods, name="whole")
    assert module.main(config) == 0
    pieces = replace(config, name="pieces", minutes=0.05)  # three ticks of the clock below, which ticks every step
    calls = 1
    while status := module.main(pieces, clock=count().__next__):
        assert status == 3, "time is up"
        calls += 1
    assert calls > 3
    whole, parts = trained(config, script), trained(pieces, script)
    assert whole.keys() == parts.keys()
    assert len(whole) > len(methods)
    for place, weights in whole.items():
        assert weights == parts[place], place
    one, other = (result(tmp_path, script, name)["budgets"]["steps"]["results"] for name in ("whole", "pieces"))
    assert {n: runs["0"]["records"] for n, runs in one.items()} == {n: r["0"]["records"] for n, r in other.items()}


def test_fillers_and_guidance_reach_every_comparator(comparison, tmp_path):
    module, config = comparison("comparators_retrofitted", methods=("pc", "gc", "ec"))
    assert module.main(config) == 0
    runs = result(tmp_path, module.__name__)["budgets"]["steps"]["results"]
    for model in config.methods:
        plain, fillers, guided = (runs[f"{model}, {arm}"]["0"]["parameters"] for arm in module.ARMS)
        assert plain < fillers == guided
        place = f"work/comparators_retrofitted/test/rows/{model}-{{}}-0-8/{model}/model.safetensors"
        alone, led = (load_file(tmp_path / place.format(arm)) for arm in ("fillers", "fillers-and-distillation"))
        exits = [key for key in alone if key.endswith("filler.exit.weight")]
        assert len(exits) > 1
        for key in exits:  # zero when fresh
            assert alone[key].any()
            assert led[key].any()
            assert not led[key].equal(alone[key])


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_method(comparison, script):
    module, config = comparison(script, methods=("gan",))
    with pytest.raises(SystemExit, match="no method 'gan'; expected some of"):
        module.main(config)


def test_options_that_make_no_sense(comparison):
    with pytest.raises(ValueError, match=r"steps 2, .* expected"):
        comparison("table1_small", steps=2)


def test_other_options_do_not_mix(comparison):
    module, config = comparison("table1_small", methods=("plain",))
    assert module.main(config) == 0
    with pytest.raises(ValueError, match=r"belongs to another run: .*lr was 0.0001, now 0.01"):
        module.main(replace(config, lr=0.01))
