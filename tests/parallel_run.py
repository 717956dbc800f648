"""A tiny run in one process or in one of several. As a script: PHOTOS OUT ACCUMULATE STOP_AT; exits with 75 if stopped.

Processes find each other by the environment variables that launchers set: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. At step STOP_AT of the student the last of them, and no other, gets SIGUSR1.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tiny_run import tiny_config

from kdinpaint.training import DistillConfig, train
from kdinpaint.training.engine import Stage
from kdinpaint.training.interrupt import Preempted


def config(photos, out, accumulate):
    tiny = tiny_config(photos, out, distill=DistillConfig(meta_every=2, self_ramp=0.0))
    teacher, student = (
        replace(one, optim=replace(one.optim, batch=4, accumulate=accumulate, warmup=2))
        for one in (tiny.teacher, tiny.student)
    )
    return replace(tiny, teacher=teacher, student=student, evaluation=replace(tiny.evaluation, per_bin=2))


def launch(photos, out, *, processes=1, accumulate=1, stop_at=-1):
    """Run to the end or to the stop; returns the exit statuses and all output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    running = []
    for rank in range(processes):
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        given = {"MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in group.items()}} if processes > 1 else {}
        running.append(
            subprocess.Popen(
                [sys.executable, __file__, str(photos), str(out), str(accumulate), str(stop_at)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", **given},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=300)[0] for process in running]
    return [process.returncode for process in running], "\n".join(said)


def _signal_at(stop_at):
    step = Stage._one_step

    def one_step(self, batch):
        if self.name == "student" and self.step == stop_at:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(self, batch)

    Stage._one_step = one_step


def _steady_adam():
    """Adam makes a whole step of the rounding of a gradient that is next to nothing; a larger eps leaves it small."""
    torch.optim.Adam.__init__ = functools.partialmethod(torch.optim.Adam.__init__, eps=1e-3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _steady_adam()
    photos, out, accumulate, stop_at = sys.argv[1:]
    if os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
        _signal_at(int(stop_at))
    try:
        train(config(Path(photos), Path(out), int(accumulate)))
    except Preempted as stop:
        sys.exit(stop.status)
