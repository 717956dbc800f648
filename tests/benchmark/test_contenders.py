"""Everybody computes the same; who does not is found out before being timed."""

import json
import math
from dataclasses import replace

import pytest
import torch

from kdinpaint._core.errors import ConfigError
from kdinpaint.benchmark import adaptive_conv, runtimes
from kdinpaint.benchmark.adaptive_conv import TOLERANCE, measure_case
from kdinpaint.benchmark.cases import Case, make_inputs, make_region, parse_shape, reference, worst_error
from kdinpaint.benchmark.contenders import contenders

CASE = Case((2, 4, 7, 6), 5, 2.0, "float32", torch.device("cpu"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_every_contender_agrees_with_the_reference(dtype: str, spread: float) -> None:
    case = replace(CASE, dtype=dtype, spread=spread)
    result = measure_case(case, rounds=2)
    json.dumps(result, allow_nan=False)
    found = {one["name"]: one for one in result["contenders"]}
    assert {"kdinpaint", "kdinpaint, hole 25%", "kdinpaint, hole 10%", "torchvision", "conv2d"} <= set(found)
    for one in found.values():
        if one.get("unavailable"):
            assert one["unavailable"] == "not installed"
            continue
        assert "refused" not in one, one
        expected = dtype if one["name"].startswith(("kdinpaint", "conv2d")) else "float32"
        assert max(one["error"].values()) <= TOLERANCE[expected]
        assert one["forward"]["best"] <= one["forward"]["median"]
        if one["name"] not in ("onnxruntime", "openvino"):
            assert all(memory["peak"] >= memory["results"] > 0 for memory in one["memory"].values())
            assert one["training"]["median"] > 0
    ratios = found["kdinpaint, hole 25%"]["speedup"]["training"]
    assert set(ratios) == {"torchvision", "conv2d", "dense"}
    assert all(low <= value <= high for value, low, high in ratios.values())
    if dtype == "bfloat16":
        assert "refuses autocast" in found["torchvision"]["note"]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda package: None)
    _, absent = contenders(CASE, make_inputs(CASE), backends=["auto"], regions={})
    assert absent[name] == "not installed"


@pytest.mark.parametrize("fault", ["value", "gradient", "nan", "outside the region"])
def test_a_wrong_contender_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*arguments: object, **options: object) -> object:
        field, absent = contenders(*arguments, **options)
        victim = next(i for i, one in enumerate(field) if (one.region is not None) == (fault == "outside the region"))
        right = field[victim]

        def forward() -> torch.Tensor:
            output = right.forward().clone()
            if fault == "nan":
                output[0, 0, 0, 0] = math.nan
            if fault == "value":
                output[0, 0, 0, 0] += 1
            if fault == "outside the region":
                output += 0.01 * (output == 0)
            return output

        def training() -> tuple[torch.Tensor, ...]:
            output, *gradients = right.training()
            if fault == "gradient":
                gradients[3] = gradients[3].flip(1)  # dy and dx exchanged
            return output, *gradients

        field[victim] = replace(right, forward=forward, training=training)
        return field, absent

    monkeypatch.setattr(adaptive_conv, "contenders", spoiled)
    result = measure_case(CASE, regions=(0.25,), rounds=2)
    wrong = [one for one in result["contenders"] if "refused" in one]
    assert [one["name"] for one in wrong] == ["kdinpaint, hole 25%" if fault == "outside the region" else "kdinpaint"]
    assert not {"forward", "training", "memory", "speedup"} & set(wrong[0])
    assert "differs from the float64 reference by" in wrong[0]["refused"]
    json.dumps(result, allow_nan=False)
    other = next(one for one in result["contenders"] if one["name"] == "torchvision")
    assert other["training"]["median"] > 0, "the others are measured all the same"


def test_a_contender_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> object:
        field, absent = contenders(*arguments, **options)

        def forward() -> torch.Tensor:
            raise RuntimeError("not implemented for this dtype\nand more")

        return [replace(one, forward=forward) if one.name == "torchvision" else one for one in field], absent

    monkeypatch.setattr(adaptive_conv, "contenders", broken)
    result = measure_case(CASE, regions=(), rounds=2)
    found = {one["name"]: one for one in result["contenders"]}
    assert found["torchvision"]["unavailable"] == "RuntimeError: not implemented for this dtype"
    assert "torchvision" not in found["kdinpaint"]["speedup"]["forward"]


def test_inputs_keep_off_the_kinks_and_repeat() -> None:
    inputs, again = make_inputs(CASE), make_inputs(CASE)
    fraction = inputs.offset.detach() - inputs.offset.detach().floor()
    assert fraction.min() >= 1 / 128
    assert fraction.max() <= 127 / 128
    assert torch.equal(inputs.x, again.x)
    assert not make_inputs(replace(CASE, spread=0.0)).offset.any()


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 1.0])
def test_region_has_the_ratio_in_every_image(ratio: float) -> None:
    case = replace(CASE, shape=(3, 4, 40, 30))
    region = make_region(case, ratio)
    assert region.mean((1, 2, 3)).tolist() == pytest.approx([ratio] * 3, abs=0.02)
    assert set(region.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_region_out_of_range(ratio: float) -> None:
    with pytest.raises(ConfigError, match="expected a share of the cells"):
        make_region(CASE, ratio)


def test_region_of_the_reference() -> None:
    inputs, region = make_inputs(CASE), make_region(CASE, 0.25)
    output, *_ = reference(inputs, region)
    assert torch.equal(output != 0, (region != 0).expand_as(output))


def test_worst_error() -> None:
    one = torch.ones(4, dtype=torch.float64)
    assert worst_error([one, 1.5 * one], [one, one]) == pytest.approx(0.5)
    assert worst_error([one], [torch.zeros_like(one)]) == pytest.approx(2.0), "absolute where nothing is expected"
    assert math.isnan(worst_error([one, one * math.nan], [one, one]))


def test_shapes() -> None:
    assert parse_shape("2,64,128,96") == ((2, 64, 128, 96), 64)
    assert parse_shape("2,64,128,96,32") == ((2, 64, 128, 96), 32)
    for text in ("2,64,128", "2,64,128,0", "2x64x128x128", ""):
        with pytest.raises(ConfigError, match="expected B,C,H,W"):
            parse_shape(text)
