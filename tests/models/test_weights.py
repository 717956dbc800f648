"""Models on disk: bit-exact round trips, and every way in which files can be wrong."""

import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from harness import assert_equal, randomise, tensors
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.errors import OutputError, WeightsError
from kdinpaint.models import load_model, save_model, weights

IMAGE, MASK = torch.rand(1, 3, 9, 13), torch.ones(1, 1, 9, 13)


def student(**options):
    return randomise(InpaintingNet(channels=(4, 6), head_channels=4, **options))


@pytest.fixture
def folder(tmp_path):
    save_model(student(), tmp_path / "student")
    return tmp_path / "student"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def configure(folder, **change):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))


@pytest.mark.parametrize(
    "model",
    [
        student(),
        student(filler="serial", attention="concat", cond_mask=True, max_offset=2.5, fill=0.5, known_keys=True),
        student(filler="none", attention=None, skips=False, blocks=2, dilations=[1, 3]),
        student(dtype=torch.bfloat16),
        randomise(AutoEncoder(1, channels=[2, 3], head_channels=4, dtype=torch.float64)),
    ],
    ids=["plain", "options", "without", "bfloat16", "autoencoder"],
)
def test_round_trip_is_bit_exact(model, tmp_path):
    save_model(model, tmp_path)
    assert sorted(contents(tmp_path)) == ["config.json", "model.safetensors"]
    for source in (tmp_path, str(tmp_path), tmp_path / "model.safetensors"):
        loaded = load_model(source)
        assert type(loaded) is type(model)
        assert repr(loaded) == repr(model)
        assert_equal(dict(loaded.state_dict()), dict(model.state_dict()))
        assert not loaded.training
        assert all(p.requires_grad for p in loaded.parameters())
    image = IMAGE[:, : model.in_channels].to(next(model.parameters()).dtype)
    inputs = (image, MASK) if isinstance(model, InpaintingNet) else (image,)
    assert_equal(loaded(*inputs), model(*inputs))
    if isinstance(model, InpaintingNet):
        assert loaded.fill == model.fill


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    save_model(load_model(folder), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_the_hub_reads_the_folder(folder, capsys):
    model = InpaintingNet.from_pretrained(folder)
    assert "local directory" in capsys.readouterr().out
    assert_equal(dict(model.state_dict()), dict(load_model(folder).state_dict()))
    assert model.channels == (4, 6)


def test_a_hub_folder_of_the_mixin_can_be_read_back_by_it(tmp_path, capsys):
    student().save_pretrained(tmp_path)
    assert_equal(InpaintingNet.from_pretrained(tmp_path)(IMAGE, MASK), student()(IMAGE, MASK))
    assert_equal(load_model(tmp_path)(IMAGE, MASK), student()(IMAGE, MASK))


def test_device_is_where_the_weights_go(folder, device):
    assert {p.device.type for p in load_model(folder, device=device).parameters()} == {device.type}


def test_saving_leaves_the_model_alone(folder, tmp_path):
    model = student().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_model(model, tmp_path / "a" / "b")
    assert model.training
    assert_equal(dict(model.state_dict()), before)


# What can be wrong ------------------------------------------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights at .*nowhere.*\(the folder holds: nothing\).*RUN/student"):
        load_model(tmp_path / "nowhere")


def test_folder_with_something_else(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"the folder holds: checkpoint.pt"):
        load_model(tmp_path)


def test_missing_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config.json is missing; it says which model"):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 4, 200, -8])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"damaged or not a safetensors file.*may be truncated.*Copy it again"):
        load_model(folder)


def test_damaged_header(folder):
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[0:8] = (2**62).to_bytes(8, "little")
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged"):
        load_model(folder)


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_weights_are_not_run(folder, tmp_path):
    trap = tmp_path / "trap"
    raw = pickle.dumps(Payload(trap))
    pickle.loads(pickle.dumps(Payload(tmp_path / "works"))).close()
    assert (tmp_path / "works").exists()
    (folder / "model.pt").write_bytes(raw)
    with pytest.raises(WeightsError, match=r"model.pt is not a safetensors file. Pickled weights can run code"):
        load_model(folder / "model.pt")
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        load_model(folder)
    assert not trap.exists()


def test_foreign_weights(folder):
    save_file({"layer.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"missing: decoder.* \.\.\.; not part of the model: layer.weight. Use the two"
    ):
        load_model(folder)


def test_weights_of_another_size(folder):
    save_model(randomise(InpaintingNet(channels=(4, 8), head_channels=4)), folder.parent / "other")
    os.replace(folder.parent / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit the InpaintingNet.*shapes: decoder.* instead of"):
        load_model(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_fractions(folder, dtype):
    state = load_file(folder / "model.safetensors")
    save_file({k: v.to(dtype) for k, v in state.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsError, match="not numbers with a fraction"):
        load_model(folder)


@pytest.mark.parametrize(
    "raw",
    ["", "{", "null", "[]", '"InpaintingNet"', "{}", '{"model": []}', "[" * 100_000, "\udcff"],
    ids=lambda raw: raw[:16],
)
def test_damaged_config(folder, raw):
    (folder / "config.json").write_bytes(raw.encode("utf-8", "surrogateescape"))
    with pytest.raises(WeightsError, match=r"config.json does not describe a kdinpaint model .*expected the file"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "Module"},
        {"model": "os.system"},
        {"unknown": 1},
        {"channels": []},
        {"channels": [0, 6]},
        {"channels": [-4, 6]},
        {"channels": "46"},
        {"channels": [4.5, 6]},
        {"channels": None},
        {"attention": "x"},
        {"max_offset": -1},
        {"in_channels": 10**30},
        {"head_channels": "4"},
        {"blocks": 10**12},
        {"blocks": None},
    ],
    ids=str,
)
def test_foreign_config(folder, change):
    configure(folder, **change)
    with pytest.raises(WeightsError, match=r"config.json does not describe a kdinpaint model"):
        load_model(folder)


class LargestTensor(TorchDispatchMode):
    """The number of values of the largest tensor with memory that is made inside."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tensors(result) if not t.is_meta)])
        return result


@pytest.mark.parametrize("channels", [[1000, 1000], [10**5, 10**5], [2**31, 6], [10**18, 10**18]], ids=str)
def test_huge_configurations_take_no_memory(folder, channels):
    configure(folder, channels=channels)
    with LargestTensor() as largest, pytest.raises(WeightsError):
        load_model(folder)
    assert largest.numel < 10_000


def test_a_folder_in_place_of_the_config(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(WeightsError, match="does not describe"):
        load_model(folder)


# Failed writes ----------------------------------------------------------------------------------------------


def other():
    return randomise(InpaintingNet(channels=(16, 32), head_channels=8))


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


def refused(*_, **__):
    raise SafetensorError("Error while serializing: I/O error")


@pytest.mark.parametrize("failure", [no_space, refused])
def test_failed_weights_leave_both_files(folder, monkeypatch, failure):
    before = contents(folder)
    monkeypatch.setattr(weights, "save_file", failure)
    with pytest.raises(OutputError, match=r"cannot write .*model.safetensors: .*Earlier files are untouched"):
        save_model(other(), folder)
    assert contents(folder) == before


def test_failed_config_leaves_both_files(folder, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(Path, "write_text", no_space)
    with pytest.raises(OutputError, match=r"cannot write .*config.json: No space left on device"):
        save_model(other(), folder)
    assert contents(folder) == before


def test_a_real_limit_on_file_size_leaves_both_files(folder):
    before, limits = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*model.safetensors"):
            save_model(other(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(folder) == before
    save_model(other(), folder)
    assert load_model(folder).channels == (16, 32)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(OutputError, match="cannot make the folder"):
        save_model(student(), tmp_path / "x")
    assert (tmp_path / "x").read_text() == "old"
