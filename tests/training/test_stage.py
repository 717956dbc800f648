"""Options of the engine, on a stage of some milliseconds."""

import errno
import os
import signal
import sys
import types
from dataclasses import replace

import pytest
import torch
from harness import assert_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.data import Dataset

from kdinpaint import AutoEncoder, InpaintingNet
from kdinpaint._core.errors import (
    CheckpointError,
    ConfigError,
    ImageFileError,
    KDInpaintError,
    KDInpaintWarning,
    MissingDependencyError,
    OutputError,
)
from kdinpaint.training import DistillConfig, LossConfig, OptimConfig, RuntimeConfig, StudentObjective, TeacherObjective
from kdinpaint.training.checkpoint import load_checkpoint
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.interrupt import Preempted
from kdinpaint.training.tracking import start_trackers

OPTIM = OptimConfig(steps=6, batch=2, lr=1e-3)
RUNTIME = RuntimeConfig(device="cpu", checkpoint_every=2, log_every=1)


class Noise(Dataset):
    """Samples by number; whatever `spoil` does to one of them."""

    seed = 5

    def __init__(self, spoil=None, length=400):
        self.spoil, self.length = spoil, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        mask = torch.zeros(1, 16, 16)
        mask[:, 2:9, 3 : 4 + index % 7] = 1
        sample = {"image": torch.rand(3, 16, 16, generator=draw), "mask": mask}
        return sample if self.spoil is None else self.spoil(index, sample)


def stage(folder, optim=OPTIM, runtime=RUNTIME, *, student=False, scaler=False, **options):
    torch.manual_seed(0)
    objective = TeacherObjective(AutoEncoder(3, (4, 6), head_channels=4))
    if student:
        net = InpaintingNet(3, (4, 6), head_channels=4, dilations=(1,))
        distill = DistillConfig(meta_every=2, self_ramp=0.0, aligner="teacher")
        objective = StudentObjective(net, objective.net, loss=LossConfig(), distill=distill)
    accelerator = make_accelerator(runtime, "no", folder / "logs")
    if scaler:  # as mixed precision in float16 has it, which needs a GPU
        accelerator.scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    return Stage("noise", objective, optim, runtime, folder, accelerator, quiet=True, **options)


def stop_at(step, number=signal.SIGTERM):
    def on_step(running):
        if running.step == step:
            os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_stops_a_stage_that_goes_on_to_the_same_bits(tmp_path, number):
    whole = stage(tmp_path / "whole").run(Noise())
    with pytest.raises(Preempted) as stopped:
        stage(tmp_path / "parts", on_step=stop_at(3, number)).run(Noise())
    assert stopped.value.status == 75
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 3
    assert_equal(stage(tmp_path / "parts").run(Noise()).state_dict(), whole.state_dict())


def test_a_scheduler_stops_a_stage_while_its_last_step_is_saved(tmp_path, monkeypatch):
    write = Stage._write

    def signalled(self):
        write(self)
        if self.step == OPTIM.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Stage, "_write", signalled)
    with pytest.raises(Preempted):
        stage(tmp_path).run(Noise())
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == OPTIM.steps


@pytest.mark.parametrize("damage", ["truncated", "missing", "zeros"])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    whole = stage(tmp_path / "whole").run(Noise())
    with pytest.raises(Preempted):
        stage(tmp_path / "parts", on_step=stop_at(5)).run(Noise())
    checkpoint = tmp_path / "parts" / "checkpoint.pt"
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.previous.pt")["step"] == 4
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    elif damage == "zeros":
        checkpoint.write_bytes(bytes(checkpoint.stat().st_size))
    else:
        checkpoint.unlink()
    with pytest.warns(KDInpaintWarning, match=r"goes on from the previous checkpoint, .*previous.pt, at step 4"):
        again = stage(tmp_path / "parts").run(Noise())
    assert_equal(again.state_dict(), whole.state_dict())
    assert not (tmp_path / "parts" / "checkpoint.previous.pt").exists(), "a finished stage needs one"


def test_two_damaged_checkpoints_are_refused(tmp_path):
    with pytest.raises(Preempted):
        stage(tmp_path, on_step=stop_at(5)).run(Noise())
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="to start this stage over"):
        stage(tmp_path).run(Noise())


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Preempted):
        stage(tmp_path, on_step=stop_at(5)).run(Noise())
    assert [load_checkpoint(tmp_path / f"checkpoint{part}.pt")["step"] for part in ("", ".previous")] == [5, 4]


def test_a_lost_data_file_loses_no_checkpoint(tmp_path):
    def lost(index, sample):
        if index == 9:
            raise ImageFileError("photo 9 is gone")
        return sample

    with pytest.raises(ImageFileError, match="photo 9 is gone"):
        stage(tmp_path / "parts").run(Noise(lost))
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 4
    again = stage(tmp_path / "parts").run(Noise())
    assert_equal(again.state_dict(), stage(tmp_path / "whole").run(Noise()).state_dict())


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_batch_that_makes_nan_is_kept(tmp_path, log_every):
    def poisoned(index, sample):
        return {**sample, "image": sample["image"] + float("nan")} if index == 5 else sample

    with pytest.raises(KDInpaintError, match=r"the loss is not finite at step 3\. .*bad_batch.pt"):
        stage(tmp_path, runtime=replace(RUNTIME, log_every=log_every)).run(Noise(poisoned))
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert (kept["step"], kept["seed"]) == (2, 5)
    assert [bool(torch.isfinite(image).all()) for image in kept["image"]] == [True, False]
    assert_equal(kept["mask"], torch.stack([Noise()[i]["mask"] for i in (4, 5)]))
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 2


def test_parts_of_a_batch_make_the_same_step(tmp_path):
    optim = replace(OPTIM, batch=4)
    whole, parts = (stage(tmp_path / str(n), replace(optim, accumulate=n), student=True) for n in (1, 2))
    logs = [{}, {}]
    for one, log in zip((whole, parts), logs, strict=True):
        one._report = lambda values, bar, log=log, one=one: log.setdefault(one.step, dict(values))
        one.run(Noise())
    for name, value in whole.objective.state_dict().items():
        torch.testing.assert_close(parts.objective.state_dict()[name], value, rtol=1e-3, atol=2e-4)
    for step, values in logs[0].items():
        assert values.keys() == logs[1][step].keys()
        assert float(values["loss"]) == pytest.approx(float(logs[1][step]["loss"]), rel=1e-4)


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch is 2 with 1 processes and accumulate=4"):
        stage(tmp_path, replace(OPTIM, accumulate=4)).run(Noise())


def test_warmup_rises_and_hands_over_to_the_schedule(tmp_path):
    rates = []

    def note(running):
        rates.append(running.optimizer.param_groups[0]["lr"])

    stage(tmp_path, replace(OPTIM, warmup=3, schedule="constant"), on_step=note).run(Noise())
    assert rates == pytest.approx([5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("option", [{"channels_last": True}, {"workers": 1}])
def test_runtime_options_change_rounding_at_most(tmp_path, option):
    plain = stage(tmp_path / "plain", student=True)
    plain.run(Noise())
    other = stage(tmp_path / "other", runtime=replace(RUNTIME, **option), student=True)
    other.run(Noise())
    for name, value in plain.objective.state_dict().items():
        torch.testing.assert_close(other.objective.state_dict()[name], value, rtol=1e-3, atol=2e-4)


def test_compile_compiles_the_network_and_nothing_that_is_kept(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(type(module).__name__))
    net = stage(tmp_path, runtime=replace(RUNTIME, compile=True), student=True).run(Noise())
    assert compiled == ["InpaintingNet"]
    assert not any("_orig_mod" in name for name in net.state_dict())


def test_gradient_scaling_goes_on_where_it_was(tmp_path):
    def scaled(folder, **options):
        return stage(folder, replace(OPTIM, clip_norm=None), student=True, scaler=True, **options)

    whole = scaled(tmp_path / "whole")
    whole.run(Noise())
    with pytest.raises(Preempted):
        scaled(tmp_path / "parts", on_step=stop_at(4)).run(Noise())
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["scaler"]["scale"] > 0
    again = scaled(tmp_path / "parts")
    again.run(Noise())
    assert_equal(again.objective.state_dict(), whole.objective.state_dict())
    assert again.scaler.state_dict() == whole.scaler.state_dict()
    # A power of two changes no digit of what is not too small or too large for it.
    plain = stage(tmp_path / "plain", replace(OPTIM, clip_norm=None), student=True)
    plain.run(Noise())
    assert_equal(plain.ema.module.state_dict(), whole.ema.module.state_dict())


def test_gradient_scaling_may_pass_over_steps_and_stops_after_many(tmp_path):
    def poisoned(index, sample):
        return {**sample, "image": sample["image"] + float("nan")} if index >= bad else sample

    for bad, steps in ((10, 12), (40, 12)):
        runtime = replace(RUNTIME, checkpoint_every=1000)
        stage(tmp_path / str(bad), replace(OPTIM, steps=steps), runtime, scaler=True).run(Noise(poisoned))
    bad, runtime = 10, replace(RUNTIME, checkpoint_every=1000, log_every=50)
    with pytest.raises(KDInpaintError, match="not finite at step 6"):
        stage(tmp_path / "stuck", replace(OPTIM, steps=160, clip_norm=None), runtime, scaler=True).run(Noise(poisoned))


def test_weights_and_biases_are_asked_for_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kdinpaint\[wandb\]'"):
        stage(tmp_path, runtime=replace(RUNTIME, trackers=("wandb",)))


def test_weights_and_biases_go_on_with_the_same_run(tmp_path, monkeypatch):
    begun = []
    run = types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **options: begun.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    accelerator = make_accelerator(RUNTIME, "no", tmp_path)
    for step in (0, 7):
        folder = tmp_path / "mine" / "student"
        start_trackers(accelerator, ("wandb",), stage="student", folder=folder, step=step, settings={"seed": 3})
        accelerator.log({"loss": 1.0}, step=step)
    assert begun[0] == begun[1]
    assert begun[0]["project"] == "kdinpaint"
    assert begun[0]["name"] == "mine/student"
    assert begun[0]["resume"] == "allow"
    assert begun[0]["config"] == {"seed": 3}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's, which has died
@pytest.mark.parametrize("written", [0, 1, 9])
def test_a_full_disk_stops_the_log_with_a_message(tmp_path, monkeypatch, written):
    calls, write = [], RecordWriter.write

    def full(self, data):
        calls.append(data)
        if len(calls) > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(OutputError, match=r"cannot write the log in .*logs: No space left on device\. Checkpoints are"):
        stage(tmp_path).run(Noise())
    monkeypatch.undo()
    stage(tmp_path).run(Noise())


def points(folder, tag):
    events = EventAccumulator(str(folder / "logs" / "noise")).Reload()
    return [event.step for event in events.Scalars(tag)]


def test_what_steps_say_now_and_then_reaches_the_log(tmp_path):
    # The meta-learner has its say in steps 1, 3, 5, ..., and none of them is reported on.
    stage(tmp_path, replace(OPTIM, steps=10), replace(RUNTIME, log_every=4), student=True).run(Noise())
    assert points(tmp_path, "loss") == points(tmp_path, "importance/effective_share") == [4, 8, 10]


def test_going_on_keeps_the_points_of_the_log_up_to_there(tmp_path):
    with pytest.raises(Preempted):
        stage(tmp_path, on_step=stop_at(4)).run(Noise())
    stage(tmp_path).run(Noise())
    assert points(tmp_path, "loss") == [1, 2, 3, 4, 5, 6]


def test_other_processes_draw_the_same_numbers_after_an_interruption(tmp_path):
    one = stage(tmp_path)
    one.accelerator = types.SimpleNamespace(is_main_process=False, process_index=1)

    def drawn(first, last):
        found = []
        with one._own_random_numbers() as begin_step:
            for one.step in range(first, last):
                begin_step()
                found.append(torch.rand(2).tolist())
        return found

    assert drawn(0, 4)[2:] == drawn(2, 4)


def test_statistics_that_are_not_finite_are_not_saved(tmp_path):
    def ruined(stage):
        if stage.step == 3:
            stage.objective.net.seen.fill_(float("nan"))

    one = stage(tmp_path, on_step=ruined)
    one.objective.net.register_buffer("seen", torch.zeros(1))
    with pytest.raises(KDInpaintError, match=r"statistics that are not finite at step 4: net\.seen"):
        one.run(Noise())
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 2


def test_adversarial_terms_that_are_not_finite_stop_the_stage(tmp_path):
    one = stage(tmp_path)
    one.objective.backward = lambda losses, step, backward: backward(losses.total + float("nan")) or {}
    with pytest.raises(KDInpaintError, match="the loss is not finite at step 1"):
        one.run(Noise())


def test_no_tracker_at_all(tmp_path):
    stage(tmp_path, runtime=replace(RUNTIME, trackers=())).run(Noise())
    assert not (tmp_path / "logs").exists()
