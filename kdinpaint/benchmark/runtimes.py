"""Inference runtimes with a deformable convolution of their own, called on the CPU if they are installed."""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from kdinpaint.benchmark.cases import Inputs

__all__ = ["onnxruntime", "openvino", "versions"]


def versions() -> dict[str, str]:
    """The version of each runtime, or "not installed"."""
    found = {}
    for package in ("onnxruntime", "openvino"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _arrays(inputs: Inputs) -> dict[str, np.ndarray]:
    named = zip(("x", "weight", "bias", "offset", "kernel"), inputs.leaves, strict=True)
    return {name: tensor.detach().float().contiguous().numpy() for name, tensor in named}


def onnxruntime(inputs: Inputs) -> Callable[[], Tensor] | None:
    """A call of onnxruntime's DeformConv in float32, with weight and bias as constants; None if not installed."""
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return None
    helper, numpy_helper = import_module("onnx.helper"), import_module("onnx.numpy_helper")
    real = import_module("onnx").TensorProto.FLOAT
    runtime = import_module("onnxruntime")
    arrays = _arrays(inputs)
    feed = {name: arrays[name] for name in ("x", "offset", "kernel")}
    node = helper.make_node(
        "DeformConv", ["x", "weight", "offset", "bias", "kernel"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )
    graph = helper.make_graph(
        [node],
        "adaptive_conv",
        [helper.make_tensor_value_info(name, real, array.shape) for name, array in feed.items()],
        [helper.make_tensor_value_info("y", real, inputs.gradient.shape)],
        [numpy_helper.from_array(arrays[name], name) for name in ("weight", "bias")],
    )
    # The operator exists since version 19 of the operator set; version 9 of the file format can hold it.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def call() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    return call


def openvino(inputs: Inputs) -> Callable[[], Tensor] | None:
    """A call of OpenVINO's DeformableConvolution and its addition of a bias in float32; None if not installed."""
    if find_spec("openvino") is None:
        return None
    vino, operators = import_module("openvino"), import_module("openvino.opset8")
    arrays = _arrays(inputs)
    feed = [arrays[name] for name in ("x", "offset", "kernel")]
    x, offset, kernel = parameters = [operators.parameter(list(array.shape), np.float32) for array in feed]
    node = operators.deformable_convolution(
        x,
        offset,
        operators.constant(arrays["weight"]),
        strides=[1, 1],
        pads_begin=[1, 1],
        pads_end=[1, 1],
        dilations=[1, 1],
        mask=kernel,
        bilinear_interpolation_pad=True,
    )
    node = operators.add(node, operators.constant(arrays["bias"].reshape(1, -1, 1, 1)))
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = vino.Core().compile_model(vino.Model([node], parameters, "adaptive_conv"), "CPU", settings)
    request = compiled.create_infer_request()

    def call() -> Tensor:
        return torch.from_numpy(request.infer(feed, share_inputs=True)[0])

    return call
