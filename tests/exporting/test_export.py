"""`kdinpaint.export`, through onnxruntime on the CPU."""

import re
import sys
from pathlib import Path

import pytest
import torch
from exporting_models import features, lively, masked
from harness import random_mask
from torch import Tensor, nn

from kdinpaint import (
    AdaptiveConv2d,
    AutoEncoder,
    FillerBlock,
    GlobalLocalAttention,
    InpaintingNet,
    adaptive_conv2d,
    create_model,
    export,
)
from kdinpaint.errors import ConfigError, MissingDependencyError, OutputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture
def runtime():
    return pytest.importorskip("onnxruntime", minversion="1.25")


def run(runtime: object, path: Path, *inputs: Tensor) -> Tensor:
    session = runtime.InferenceSession(path)
    names = [value.name for value in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})[0])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 3), "bias": False},
        {"kernel_size": 3, "dilation": (1, 2), "padding": 2, "modulation": "softmax", "max_offset": 2.0},
        {"kernel_size": 1, "modulation": "none"},
    ],
    ids=["plain", "rectangular", "dilated", "pointwise"],
)
def test_adaptive_convolution_is_one_standard_node(runtime: object, tmp_path: Path, options: dict) -> None:
    conv = lively(AdaptiveConv2d(4, 6, **options), scale=0.5)
    report = export(conv, features(4, 1, 14, 15), tmp_path / "conv.onnx")
    assert report.operators["DeformConv"] == 1
    assert not [name for name in report.operators if name.startswith(("Gather", "Scatter", "GridSample"))]
    assert report.difference < 1e-5
    assert report.inputs == {"x": ("batch", 4, "height", "width")}
    for size in ((2, 14, 15), (3, 31, 8)):
        (x,) = features(4, *size)
        assert relative(run(runtime, report.path, x), conv(x).detach()) < 1e-5


@pytest.mark.parametrize("opset", [19, 22])
def test_opsets(runtime: object, tmp_path: Path, opset: int) -> None:
    report = export(lively(AdaptiveConv2d(4, 6, 3)), features(4, 1, 9, 9), tmp_path / "conv.onnx", opset=opset)
    model = onnx.load(report.path)
    assert report.opset == opset == model.opset_import[0].version
    assert report.difference < 1e-5


class Operator(nn.Module):
    def forward(self, x: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor, region: Tensor) -> Tensor:
        return adaptive_conv2d(x, weight, offset, kernel, padding=1, region=region)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_region_and_offsets_far_out_of_the_image(runtime: object, tmp_path: Path, dtype: torch.dtype) -> None:
    def inputs(batch: int, height: int, width: int) -> tuple[Tensor, ...]:
        torch.manual_seed(height)
        offset = 12 * torch.randn(batch, 18, height, width)
        offset[:, ::5] *= 1e4
        region = random_mask(batch, height, width).to(dtype)
        return torch.randn(batch, 4, height, width), torch.randn(6, 4, 3, 3), offset, offset[:, :9].tanh(), region

    report = export(Operator(), inputs(2, 10, 12), tmp_path / "operator.onnx", dynamic=False)
    assert report.operators["DeformConv"] == 1
    assert report.operators["Where"] == 1
    given = inputs(2, 10, 12)
    given[0][0, 0, 0, 0] = torch.inf  # reaches some outputs, but none outside the region
    found = run(runtime, report.path, *given)
    assert (found[(given[-1] == 0).expand_as(found)] == 0).all()
    given = inputs(2, 10, 12)
    assert relative(run(runtime, report.path, *given), Operator()(*given)) < 1e-5


def test_positions_keep_their_precision_in_half_precision_models(tmp_path: Path) -> None:
    conv = lively(AdaptiveConv2d(4, 6, 3)).half()
    report = export(conv, features(4, 1, 9, 9)[0].half(), tmp_path / "conv.onnx", check=False)
    model = onnx.shape_inference.infer_shapes(onnx.load(report.path))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (node,) = (node for node in model.graph.node if node.op_type == "DeformConv")
    assert kinds[node.input[2]] == kinds[node.output[0]] == onnx.TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("block", "up"),
    [(FillerBlock(4, 6), 1), (FillerBlock(4, 6, cond_mask=True), 4), (FillerBlock(4, 4, stride=1, mode="serial"), 1)],
    ids=["parallel", "larger mask", "serial"],
)
def test_filler_block(runtime: object, tmp_path: Path, block: FillerBlock, up: int) -> None:
    report = export(lively(block, scale=0.3), masked(4, 1, 20, 25, up=up), tmp_path / "filler.onnx")
    assert report.operators["DeformConv"] == 2
    assert report.difference < 1e-5
    for size in ((2, 20, 25), (1, 7, 5), (3, 33, 64)):
        inputs = masked(4, *size, up=up)
        expected = block(*inputs).detach()
        found = run(runtime, report.path, *inputs)
        assert relative(found, expected) < 1e-5
        assert torch.equal(found == 0, expected == 0)


def test_attention_pools_its_keys_as_the_size_demands(runtime: object, tmp_path: Path) -> None:
    block = lively(GlobalLocalAttention(8, max_keys=64))
    report = export(block, features(8, 1, 6, 9), tmp_path / "attention.onnx")
    for size in ((1, 6, 9), (1, 17, 16), (2, 40, 31), (1, 3, 70)):
        (x,) = features(8, *size)
        assert relative(run(runtime, report.path, x), block(x).detach()) < 1e-5


@pytest.mark.parametrize("name", ["kdinpaint_tiny", "kdinpaint_tiny_plain"])
def test_network_for_any_size(runtime: object, tmp_path: Path, name: str) -> None:
    net = lively(create_model(name))
    report = export(net, masked(3, 1, 64, 80), tmp_path / "net.onnx")
    assert report.operators.get("DeformConv", 0) == (0 if name.endswith("plain") else 7)
    assert report.difference < 1e-5
    for values in (report.inputs, report.outputs):
        assert {shape[0] for shape in values.values()} == {"batch"}
        assert {shape[2:] for shape in values.values()} == {("height", "width")}
    for size in ((2, 64, 80), (1, 67, 45), (1, 7, 5), (1, 160, 171)):
        inputs = masked(3, *size)
        assert relative(run(runtime, report.path, *inputs), net(*inputs).detach()) < 1e-5
    text = onnx.load(report.path).SerializeToString()
    assert b"forward" not in text, "notes of the source code are left out"


def test_several_outputs_and_fixed_size(runtime: object, tmp_path: Path) -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x + 1, {"twice": 2 * x}

    report = export(Both(), torch.rand(2, 3, 8, 9), tmp_path / "both.onnx", dynamic=False)
    assert report.inputs == {"x": (2, 3, 8, 9)}
    assert report.outputs == {"output_0": (2, 3, 8, 9), "output_1": (2, 3, 8, 9)}
    assert report.difference == 0


def test_model_stays_as_it_was(tmp_path: Path) -> None:
    net = InpaintingNet(channels=(8,), filler="none", attention=None)
    net.decoder.eval()
    before = {name: module.training for name, module in net.named_modules()}
    export(net, masked(3, 1, 16, 16), tmp_path / "net.onnx", check=False)
    assert before == {name: module.training for name, module in net.named_modules()}


class BySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.shape[-1] < 40 else -x


class ByValue(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ConfigError, "opset is 18; expected 19 or higher", {"opset": 18}),
        (ConfigError, "opset", {"opset": 99}),
        (ConfigError, "the example holds int 3; expected tensors", {"example": (3,)}),
        (ConfigError, "computes in another way for inputs of 1 x 4 x 18 x 80 than", {"model": BySize()}),
        (ConfigError, "ByValue cannot be exported", {"model": ByValue()}),
        (ConfigError, r"differ by .* for inputs of 1 x 4 x 9 x 40; -1e\+00 is allowed", {"tolerance": -1.0}),
        (OutputError, "cannot write", {"path": "folder"}),
        (OutputError, "cannot make the folder", {"path": "file/model.onnx"}),
    ],
    ids=["old opset", "unknown opset", "example", "size", "value", "difference", "folder", "file"],
)
def test_errors_leave_files_as_they_were(
    runtime: object, tmp_path: Path, error: type[Exception], message: str, call: dict
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("an earlier result")
    options = {"model": lively(AdaptiveConv2d(4, 6, 3)), "example": features(4, 1, 9, 40), "path": "file", **call}
    if isinstance(options["model"], BySize):
        options["example"] = features(4, 1, 9, 20)
        message = message.replace("18 x 80", "18 x 40")
    options["path"] = tmp_path / options["path"]
    with pytest.raises(error, match=message):
        export(**options)
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file"}
    assert not list((tmp_path / "folder").iterdir())
    assert (tmp_path / "file").read_text() == "an earlier result"


def test_says_which_extra_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'kdinpaint[export]'")):
        export(AdaptiveConv2d(4, 6, 3), features(4, 1, 9, 9), tmp_path / "conv.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = export(AutoEncoder(channels=(8,)), features(3, 1, 9, 9), str(tmp_path / "new" / "net.onnx"))
    assert report.difference is None
    assert report.path.is_file()
