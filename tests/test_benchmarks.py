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
import torch
import torchvision
from safetensors.torch import load_file
from small_comparators import small_objective

from kdinpaint.data import demo_photos
from kdinpaint.training import RECIPES

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
    sheets = sorted(path.name for path in (tmp_path / "work" / script / "test").glob("samples_*.png"))
    assert len(sheets) == (4 if script == "table1_small" else 0), "held-out and bundled photos, for both budgets"
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


@pytest.fixture
def throughput(monkeypatch):
    """The module, with narrow critics and no VGG."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("kdinpaint.training.phases.comparator_objective", small_objective)
    return importlib.import_module("throughput")


@pytest.fixture
def operator_calls(monkeypatch):
    """Shapes that torchvision's operator was called with."""
    calls, operator = [], torchvision.ops.deform_conv2d

    def counted(x, *arguments):
        calls.append(tuple(x.shape))
        return operator(x, *arguments)

    monkeypatch.setattr(torchvision.ops, "deform_conv2d", counted)
    return calls


def test_throughput_of_every_contender(throughput, operator_calls):
    content = throughput.main(throughput.Options(smoke=True))
    assert content["vgg"] == "random"
    found = content["training"]["float32"]
    assert found["absent"] == {}
    assert tuple(found["contenders"]) == throughput.CONTENDERS
    for name, one in found["contenders"].items():
        parts = one["parts"].values()
        assert sum(part["share"] for part in parts) == pytest.approx(1), name
        assert min(part["milliseconds"] for part in parts) > 0, name
        low, high = (pick(part["milliseconds"] for part in parts) for pick in (min, max))
        assert 0.5 * low < one["milliseconds"]["median"] < 2 * high, "a mean of the parts"
        assert one["images_a_second"] == pytest.approx(2000 / one["milliseconds"]["median"], rel=1e-3)
    assert found["contenders"]["ours"]["times_ours"] == [1, 1, 1]
    assert {name: part["share"] for name, part in found["contenders"]["ec"]["parts"].items()} == {
        phase.name: phase.share for phase in RECIPES["ec"].phases
    }
    costs = {name: {cost["operator"] for cost in largest} for name, largest in found["largest_costs"].items()}
    assert len(costs) == 2
    assert all(len(operators) == 3 for operators in costs.values())
    assert operator_calls
    table = importlib.import_module("cost_tables").throughput(content)
    assert all(f"| {name} | " in table for name in throughput.CONTENDERS)
    assert "python benchmarks/throughput.py --smoke" in table


def test_ours_with_the_operator_of_torchvision(throughput, operator_calls):
    module = importlib.import_module("throughput_contenders")
    setting = throughput.setting_of(throughput.Options(smoke=True).settled(), "float32")
    torch.manual_seed(0)
    ours, other = module.ours(setting), module.ours(setting, torchvision=True)
    with torch.no_grad():
        for parameter in ours.parameters():  # a fresh filler adds nothing
            parameter.add_(0.05 * torch.randn_like(parameter))
    other.load_state_dict(ours.state_dict())
    other.teacher = ours.teacher
    image, mask = setting.batch["image"], setting.batch["mask"]
    losses = [objective(setting.batch, 0.5).total for objective in (ours, other)]
    operators = len(module.adaptive_convs(ours.net))
    assert operators >= 2 * len(ours.net.channels)
    assert len(operator_calls) == operators, "all of the one, none of the other"
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(other.net(image, mask), ours.net(image, mask), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses[1], losses[0])
    theirs = dict(other.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(theirs[name].grad, parameter.grad, atol=1e-5, rtol=1e-3)
    offsets = [conv.offset_conv.weight.grad for conv in module.adaptive_convs(other.net)]
    assert all(gradient.any() for gradient in offsets)


def test_a_contender_that_cannot_take_part_is_named(throughput, monkeypatch):
    module = importlib.import_module("throughput_contenders")

    def refuse(*arguments, **options):
        raise NotImplementedError("no such kernel\nand a long trace")

    monkeypatch.setattr(module, "published", refuse)
    options = throughput.Options(smoke=True, methods=("gc", "ours")).settled()
    parts, absent = throughput.build(options, throughput.setting_of(options, "float32"))
    assert list(parts) == ["ours"]
    assert absent == {"gc": "NotImplementedError: no such kernel"}


@pytest.mark.parametrize(
    ("methods", "message"), [(("gc",), "expected 'ours' among"), (("ours", "gan"), "no contender")]
)
def test_throughput_of_what_there_is_not(throughput, methods, message):
    with pytest.raises(SystemExit, match=message):
        throughput.main(throughput.Options(smoke=True, methods=methods))


def test_paper_cost_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    contenders = {
        name: {"images_a_second": rate, "peak_gib": 1.5}
        for name, rate in (("teacher", 600), ("plain", 300), ("ours", 150))
    }
    content = {
        "command": "python benchmarks/throughput.py --device cuda",
        "environment": {"gpu": "G", "processor": "P", "threads": 1, "torch": "2"},
        "cores": 8,
        "options": {"device": "cuda", "size": 256, "batch": 6},
        "training": {"bf16": {"contenders": contenders, "fed": {"by one batch": 150, "by the loader": 75}}},
    }
    table = importlib.import_module("cost_tables").paper_cost(content)
    assert "| bf16 | 600 | 300 | 150 | 50% | 1.5 |" in table
    assert "| CelebA | 0.4 M | 5 |" in table
    assert "| Places2 | 2.5 M | 30 |" in table
    assert "G, 8 cores; P, 1 thread, torch 2" in table


def test_loading_by_workers(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    loading = importlib.import_module("loading")
    samples = loading.samples_from(tmp_path, 32, count=4)
    found = loading.rates(samples, torch.device("cpu"), batch=2, steps=2, workers=(0, 10**6), pool=4)
    assert list(found) == ["0 workers", "resident"], "no more workers than cores"
    assert min(found.values()) > 0
