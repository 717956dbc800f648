"""Running tasks: one after the other here, or several processes at a time; a failure never takes others along."""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from tqdm import tqdm

from kdinpaint._core.errors import KDInpaintError
from kdinpaint.ablation.cell import CellTask, TeacherTask

__all__ = ["run_tasks"]

Task = TeacherTask | CellTask


def run_tasks(tasks: Sequence[Task], *, jobs: int) -> dict[str, str]:
    """Run what is not done yet.

    Args:
        tasks: In an order in which each may follow those before it; none of one call waits for another.
        jobs: Processes at a time; 1 runs everything in this one.

    Returns:
        For each task that failed, by name, why.

    Raises:
        KeyboardInterrupt: After Ctrl-C, with everything on disk.
    """
    waiting = [task for task in tasks if not task.done]
    if jobs <= 1 or len(waiting) < 2:
        return _one_by_one(waiting, len(tasks))
    return _side_by_side(waiting, len(tasks), jobs)


def _one_by_one(waiting: Sequence[Task], total: int) -> dict[str, str]:
    failures = {}
    for number, task in enumerate(waiting, total - len(waiting) + 1):
        print(f"[{number}/{total}] {task.name}", file=sys.stderr, flush=True)
        try:
            task.run(None)
        except Exception as error:  # one cell's failure must not cost the others
            failures[task.name] = _describe(error)
            print(f"warning: {task.name} failed: {failures[task.name]}", file=sys.stderr, flush=True)
    return failures


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    steps: Any
    reason: Any
    seen: int = field(default=0)


def _side_by_side(waiting: Sequence[Task], total: int, jobs: int) -> dict[str, str]:
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    queue, running, failures = list(waiting), list[_Running](), dict[str, str]()
    bar = tqdm(
        total=sum(task.steps for task in waiting),
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
    try:
        with bar:
            while queue or running:
                while queue and len(running) < jobs:
                    running.append(_start(context, queue.pop(0), threads))
                time.sleep(0.2)
                for one in running:
                    bar.update(max(0, one.steps.value - one.seen))
                    one.seen = max(one.seen, one.steps.value)
                for one in [one for one in running if not one.process.is_alive()]:
                    running.remove(one)
                    if not one.task.done:
                        failures[one.task.name] = _why(one)
                        tqdm.write(f"warning: {one.task.name} failed: {failures[one.task.name]}", file=sys.stderr)
                done = total - len(queue) - len(running) - len(failures)
                bar.set_postfix_str(f"{done} of {total} done, {len(running)} running, {len(failures)} failed", False)
    finally:
        # Ctrl-C reaches the workers, too: each finishes its step and writes its checkpoint.
        for one in running:
            if one.process.is_alive():
                one.process.terminate()
        for one in running:
            one.process.join()
    return failures


def _start(context: Any, task: Task, threads: int) -> _Running:  # noqa: ANN401 - a multiprocessing context
    steps, reason = context.Value("q", 0), context.Queue()
    process = context.Process(target=_work, args=(task, threads, steps, reason), name=task.name)
    process.start()
    return _Running(task, process, steps, reason)


def _work(task: Task, threads: int, steps: Any, reason: Any) -> None:  # noqa: ANN401 - shared values
    torch.set_num_threads(threads)

    def progress(step: int) -> None:
        steps.value = step

    try:
        task.run(progress)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        reason.put(_describe(error))
        sys.exit(1)


def _why(one: _Running) -> str:
    code = one.process.exitcode
    if code == 1:
        return str(one.reason.get(timeout=5))
    return f"its process ended with code {code}" + (", perhaps for want of memory" if code == -9 else "")


def _describe(error: Exception) -> str:
    if isinstance(error, KDInpaintError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"
