"""Results of compilations, kept outside the checkout under a digest of everything that they depend on."""

from __future__ import annotations

import ast
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

from tools.gpu_build.budgets import Built
from tools.gpu_build.build import BRIEF, SHARES, Job, build

ROOT = Path(__file__).resolve().parents[2]
DAYS_KEPT = 30


def cache_folder() -> Path:
    """Return the folder of results, the same for all checkouts of a user."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "crossent" / "gpu-build"


def sources(root: Path) -> list[Path]:
    """Return the files that results depend on: kernels, launcher and this check."""
    package, tools = root / "src" / "crossent", root / "tools"
    single = [package / "spec.py", package / "stats.py", package / "kernels" / "backend.py", tools / "covering.py"]
    folders = (package / "kernels" / "triton", tools / "gpu_build")
    return [*single, *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


def digest(root: Path) -> str:
    """Return a digest of everything that results depend on: sources, versions, variables that the compiler reads."""
    settings = {name: value for name, value in os.environ.items() if name.startswith(("TRITON_", "LLVM_"))}
    settings |= {name: version(name) for name in ("torch", "triton")} | {"python": sys.version, "shares": str(SHARES)}
    settings.pop("TRITON_CACHE_DIR", None)
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in sources(root):
        whole.update(f"\0{path.relative_to(root).as_posix()}\0{code_of(path.read_text('utf-8'))}".encode())
    return whole.hexdigest()[:32]


def code_of(text: str) -> str:
    """Return what a module does, without comments, docstrings and layout, which no machine code depends on."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))]
    return ast.dump(tree)


def kept(file: Path) -> list[Built] | None:
    """Return the results in a file, or None if there is no such file or it is not as it was written."""
    try:
        text = file.read_text()
        rows, check = json.loads(text)
        if check != hashlib.sha256(json.dumps(rows).encode()).hexdigest():
            return None
        os.utime(file)
        return [Built.read(row) for row in rows]
    except (OSError, ValueError, TypeError, IndexError):
        return None


def keep(file: Path, built: list[Built]) -> None:
    """Write results to a file, as a whole or not at all."""
    rows = json.loads(json.dumps(built))
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
        json.dump([rows, hashlib.sha256(json.dumps(rows).encode()).hexdigest()], part)
    _ = Path(part.name).replace(file)


def file_of(folder: Path, key: str, job: Job) -> Path:
    """Return the file of a job's results."""
    return folder / f"{key}-{job.target}-{job.share}.json"


def jobs_of(target: str, folder: Path, key: str, *, brief: bool) -> list[Job]:
    """Return the jobs for a target: all shares, or the brief one unless the folder holds results of all shares."""
    shares = [Job(target, share) for share in range(SHARES)]
    if brief and any(kept(file_of(folder, key, job)) is None for job in shares):
        return [Job(target, BRIEF)]
    return shares


def forget(folder: Path) -> None:
    """Remove files that were not used for a month."""
    for file in folder.glob("*"):
        if time.time() - file.stat().st_mtime > DAYS_KEPT * 86400:
            file.unlink(missing_ok=True)


def compiled(jobs: list[Job]) -> Iterator[tuple[Job, list[Built]]]:
    """Do the jobs on all processors."""
    if jobs:
        with multiprocessing.get_context("spawn").Pool(os.cpu_count(), maxtasksperchild=1) as pool:
            yield from zip(jobs, pool.imap(build, jobs), strict=True)


def collect(
    jobs: list[Job],
    folder: Path,
    key: str,
    compile_jobs: Callable[[list[Job]], Iterable[tuple[Job, list[Built]]]] = compiled,
) -> dict[Job, list[Built]]:
    """Return the results of all jobs: those that the folder holds under the key, and the others compiled."""
    files = {job: file_of(folder, key, job) for job in jobs}
    results = {job: found for job, file in files.items() if (found := kept(file)) is not None}
    print(f"{len(results)} of {len(jobs)} parts of the work have not changed", flush=True)
    for job, built in compile_jobs([job for job in jobs if job not in results]):
        results[job] = built
        keep(files[job], built)
    forget(folder)
    return results
