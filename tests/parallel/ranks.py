"""Four processes with gloo that stay, and run functions of a test on the first few of them at once."""

from __future__ import annotations

import datetime
import multiprocessing
import traceback
from typing import Any

MOST = 4
PATIENCE = datetime.timedelta(seconds=60)
"""After so long torch gives up a collective, and after twice as long the test gives up the processes."""


class Failed(AssertionError):
    """A rank raised; the text is its traceback."""


class Ranks:
    """A pool of ranks; `run` calls a function of a module of tests on the first `n` of them."""

    def __init__(self, folder: str) -> None:
        self._folder, self._turn = folder, 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._turn += 1
        store = f"{self._folder}/store{self._turn}"
        self._pipes, self._processes = [], []
        for rank in range(MOST):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, n: int, function: Any, *args: Any) -> list[Any]:
        """Return what function(group, *args) returns on each of n ranks; raise `Failed` if one raised."""
        for pipe in self._pipes[:n]:
            pipe.send((n, function, args))
        answers = [self._answer(pipe) for pipe in self._pipes[:n]]
        errors = [f"rank {rank}: {text}" for rank, (good, text) in enumerate(answers) if not good]
        if errors:
            self.stop()
            self._start()  # the others may wait for what will never come
            raise Failed("\n".join(errors))
        return [value for _, value in answers]

    def _answer(self, pipe: Any) -> tuple[bool, Any]:
        if not pipe.poll(2 * PATIENCE.total_seconds()):
            return False, "no answer"
        try:
            return pipe.recv()
        except EOFError:
            return False, "died"

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, store: str, pipe: Any) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=MOST, timeout=PATIENCE)
    groups = {n: dist.new_group(list(range(n)), timeout=PATIENCE) for n in range(1, MOST + 1)}
    while True:
        try:
            n, function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(groups[n], *args)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
