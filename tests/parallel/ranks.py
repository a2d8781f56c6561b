"""Four processes with gloo that stay, and run functions of a test on the first few of them at once."""

from __future__ import annotations

import datetime
import faulthandler
import functools
import multiprocessing
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

MOST = 4
PATIENCE = datetime.timedelta(seconds=60)
"""After so long torch gives up a collective, and after twice as long the test gives up the processes."""


SILENCE = "no answer"


class Failed(AssertionError):
    """A rank raised; the text is its traceback."""


class Ranks:
    """A pool of ranks; `run` calls a function of a module of tests on the first `n` of them."""

    def __init__(self, folder: str) -> None:
        self._folder, self._turn = folder, 0
        self._start()

    def _start(self) -> None:
        from torch.distributed import TCPStore

        context = multiprocessing.get_context("spawn")
        self._turn += 1
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)
        self._pipes, self._processes = [], []
        for rank in range(MOST):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, self._store.port, self._stacks(rank), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, n: int, function: Any, *args: Any) -> list[Any]:
        """Return what function(group, *args) returns on each of n ranks; raise `Failed` if one raised."""
        for pipe in self._pipes[:n]:
            pipe.send((n, function, args))
        end = time.monotonic() + 2 * PATIENCE.total_seconds()
        answers = [self._answer(pipe, end) for pipe in self._pipes[:n]]
        errors = [f"rank {rank}: {text}" for rank, (good, text) in enumerate(answers) if not good]
        if errors:
            errors += self._what_they_wait_for() if any(text == SILENCE for _, text in answers) else []
            self.stop()
            self._start()  # the others may wait for what will never come
            raise Failed("\n".join(errors))
        return [value for _, value in answers]

    def _answer(self, pipe: Any, end: float) -> tuple[bool, Any]:
        if not pipe.poll(max(0.0, end - time.monotonic())):
            return False, SILENCE
        try:
            return pipe.recv()
        except EOFError:
            return False, "died"

    def _what_they_wait_for(self) -> list[str]:
        """Return where each thread of each process is."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGUSR1)
        time.sleep(1)
        return [f"rank {rank} is at\n{self._stacks(rank).read_text()}" for rank in range(MOST)]

    def _stacks(self, rank: int) -> Path:
        """Return the file to which a process writes where it is."""
        return Path(self._folder) / f"stacks{self._turn}-{rank}"

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()


@functools.cache
def square() -> Any:
    """Return the four ranks as a mesh of two by two, made once, whose groups give up a collective as the others do."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    mesh = torch.arange(MOST).view(2, 2)
    lines = [[dist.new_group(ranks.tolist(), timeout=PATIENCE) for ranks in axis] for axis in (mesh.T, mesh)]
    row, column = divmod(dist.get_rank(), 2)
    groups = [lines[0][column], lines[1][row]]
    return DeviceMesh.from_group(groups, "cpu", mesh=mesh, mesh_dim_names=("down", "across"))


def _serve(rank: int, port: int, stacks: Path, pipe: Any) -> None:
    file = stacks.open("w")
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=PATIENCE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=MOST, timeout=PATIENCE)
    groups = {n: dist.new_group(list(range(n)), timeout=PATIENCE) for n in range(1, MOST + 1)}
    while True:
        try:
            n, function, args = pipe.recv()
        except EOFError:
            return
        try:
            before = _groups_made()
            answer = function(groups[n], *args)
            # torch names groups by counting them: where ranks have made different numbers of them, the next one waits
            assert n == MOST or _groups_made() == before, "some of the ranks made process groups; all have to"
            pipe.send((True, answer))
        except BaseException:
            pipe.send((False, traceback.format_exc()))


def _groups_made() -> int:
    """Return how many process groups this rank has counted."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._world.group_count
