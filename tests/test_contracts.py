"""Every public function and module on tensors goes through the shared harness, or says why not."""

import ast
from pathlib import Path

import pytest
from test_api_surface import public_names

TESTS = Path(__file__).resolve().parent
# Name: why it has no contract; each has tests of its own.
WITHOUT = {
    "MetaLearner": "an optimiser, not a function of tensors: distill/test_meta.py",
    "channel_alignment": "takes a callable: distill/test_alignment.py",
    "importance_health": "returns floats for a log: distill/test_health.py",
    "AttentionMap": "a record of two tensors: models/test_inpainting_net.py",
    "ModelCost": "a record of two numbers: models/test_registry.py",
    "model_cost": "takes a model: models/test_registry.py",
    "create_model": "takes a name: models/test_registry.py",
    "list_models": "takes nothing: models/test_registry.py",
    "load_model": "takes a path: models/test_weights.py",
    "save_model": "takes a path: models/test_weights.py",
    "BackendChoice": "a name and a reason: ops/test_fused.py",
    "adaptive_conv2d_backend": "answers with a name: ops/test_fused.py",
    "VGGFeatures": "a hundred million weights: losses/test_vgg.py",
    "RATIO_BINS": "a constant: the tables of metrics/ rest on it",
}


def contracts() -> set[str]:
    """Names of all test classes that inherit a contract, as AdaptiveConv2d for TestAdaptiveConv2d."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Contract") for base in node.bases):
                found.add(node.name.removeprefix("Test"))
    return found


CONTRACTS = contracts()
NAMES = [
    (room, name)
    for room in ("ops", "losses", "layers", "distill", "models")
    for name in public_names(f"kdinpaint.{room}")
]


@pytest.mark.parametrize(("room", "name"), NAMES, ids=[f"{room}.{name}" for room, name in NAMES])
def test_has_a_contract(room, name):
    # adaptive_conv2d the function and AdaptiveConv2d the module differ by the word Function.
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    wanted = {f"{camel}Function"} if name == "adaptive_conv2d" else {camel}
    assert wanted & contracts() or name in WITHOUT, (
        f"write class Test{camel}(Contract) in tests/{room}, see tests/harness.py"
    )


def test_exceptions_have_reasons_and_are_needed():
    public = {name for _, name in NAMES}
    assert set(WITHOUT) <= public, sorted(set(WITHOUT) - public)
    for name, reason in WITHOUT.items():
        assert len(reason) > 20, name
        file = reason.rpartition(": ")[2]
        assert name == "RATIO_BINS" or (TESTS / file).is_file(), f"{name}: there is no {file}"
