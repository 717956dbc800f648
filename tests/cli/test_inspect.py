"""`kdinpaint inspect` as a user types it, for networks in the working directory and in installed packages."""

import json
import re

import pytest
import torch

import kdinpaint
from kdinpaint.cli.main import main

MODULE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, 2, 1)
        self.act = nn.ReLU()
        self.down = nn.Conv2d(width, 16, 3, 2, 1)

    def forward(self, image, *, known=None):
        return self.down(self.act(self.stem(image)))


class Masked(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.down = nn.Conv2d(channels, 8, 3, 2, 1)

    def forward(self, image, mask=None, edges=None):
        return self.down(image)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x):
        y = self.conv(x)
        return y, y[:, :1]


class Pairs(nn.Sequential):
    def __init__(self):
        super().__init__(Pair())


ready, number, flat = Net(), 7, nn.Conv2d(4, 4, 1)


def words(): return ["no", "network"]


class Group:
    make = Net
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "networks_here.py").write_text(MODULE)
    (tmp_path / "broken_here.py").write_text("1 / 0")
    (tmp_path / "needy_here.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


def printed(capsys, *arguments):
    main(["inspect", *arguments])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["Net", "ready", "Group.make"])
def test_prints_a_table_and_a_plan_that_can_be_pasted(name, capsys):
    out = printed(capsys, f"networks_here:{name}", "--input", "1x4x32x32")
    assert re.search(r"stem \.\. act +4 -> 8 +2 +16x16 +nchw\n", out)
    plan = eval(out.strip().splitlines()[-1], {"RetrofitPlan": kdinpaint.RetrofitPlan})
    assert plan.levels == (("stem", "act"), "down")


def test_the_plan_says_where_the_feature_is(capsys):
    out = printed(capsys, "networks_here:Pairs", "--input=1x4x32x32")
    plan = eval(out.strip().splitlines()[-1], {"RetrofitPlan": kdinpaint.RetrofitPlan})
    assert plan.outputs == {"0": 0}


def test_arguments_of_the_network_and_of_its_call(capsys):
    out = printed(
        capsys,
        "networks_here:Net",
        "--input=1x4x32x48",
        "--input=known=1x1x32x48",
        "--kwargs",
        '{"width": 12}',
        "--json",
    )
    found = json.loads(out)
    assert found["image"] == [32, 48]
    assert [level["channels"] for level in found["levels"]] == [12, 16]
    assert found["levels"][0]["target"] == ["stem", "act"]
    assert found["plan"] == 'RetrofitPlan(levels=[("stem", "act"), "down"], mask="kwarg:known")'
    assert '"~kwarg:known" if 1 means known' in found["note"]


@pytest.mark.parametrize(
    ("inputs", "mask", "note"),
    [
        (["1x3x32x48", "mask=1x1x32x48"], "kwarg:mask", "if 1 means known"),
        (["1x3x32x48", "1x32x48"], "arg:1", "if 1 means known"),
        (["1x3x32x48", "edges=1x1x32x48", "mask=1x1x32x48"], "kwarg:mask", 'Or is it "kwarg:edges"?'),
        (["1x1x32x48", "1x1x32x48"], "arg:1", "if 1 means known"),
        (["1x3x32x48"], "input:-1", "No input looks like a mask"),
        (["1x1x32x48"], "input:-1", "No input looks like a mask"),
        (["1x4x32x48"], "input:-1", None),
    ],
)
def test_the_plan_says_where_the_mask_is(inputs, mask, note, capsys):
    given = [part for text in inputs for part in ("--input", text)]
    channels = inputs[0].split("x")[1]
    out = printed(capsys, "networks_here:Masked", *given, "--kwargs", f'{{"channels": {channels}}}')
    plan = eval(out.strip().splitlines()[-1], {"RetrofitPlan": kdinpaint.RetrofitPlan})
    assert plan.mask == mask
    assert note in out if note else "#" not in out


def test_encoders_of_timm_take_the_channels_of_the_input(capsys):
    out = printed(capsys, "timm:resnet10t", "--input=1x5x32x32", "--kwargs", '{"out_indices": [0, 1]}')
    assert "5 -> " in out
    assert '"layer1"' in out


def test_a_network_without_stages(capsys):
    assert "lower resolution" in printed(capsys, "networks_here:flat", "--input=1x4x8x8")
    assert json.loads(printed(capsys, "networks_here:flat", "--input=1x4x8x8", "--json"))["plan"] is None


def test_random_numbers_are_left_alone(capsys):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    printed(capsys, "networks_here:ready", "--input=1x4x32x32")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Net"], "the network is 'Net'; expected PACKAGE.MODULE:NAME"),
        (["nowhere_at_all.net:Net"], "there is no module 'nowhere_at_all'"),
        (["networks_here.deeper:Net"], "cannot be imported|there is no module"),
        (["needy_here:Net"], "needy_here cannot be imported: No module named 'not_installed_anywhere'"),
        (["broken_here:Net"], "broken_here cannot be imported: ZeroDivisionError"),
        (["networks_here:Nets"], "networks_here has no 'Nets'; it has Net"),
        (["networks_here:number"], "is int 7; expected a class or function"),
        (["networks_here:words"], "gives list .* expected a torch.nn.Module"),
        (["networks_here:Net", "--kwargs", '{"depth": 3}'], "cannot be made: TypeError.*--kwargs"),
        (["networks_here:Net", "--kwargs", "width=3"], "which is no JSON"),
        (["networks_here:Net", "--kwargs", "[3]"], "expected a JSON object"),
        (["networks_here:Net", "--input", "4,32,32"], "the input is '4,32,32'; expected a shape"),
        (["networks_here:Net", "--input", "1x3x32x32"], "does not run on the example: RuntimeError.*--input"),
        (["timm:resnet_of_nobody"], "cannot be made: RuntimeError"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    given = arguments if "--input" in arguments else [*arguments, "--input=1x4x32x32"]
    with pytest.raises(SystemExit) as stop:
        main(["inspect", *given])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert re.search(message, text)
    assert "Traceback" not in text


def test_without_an_input(capsys):
    with pytest.raises(SystemExit):
        main(["inspect", "networks_here:Net"])
    assert "there is no input" in capsys.readouterr().err
