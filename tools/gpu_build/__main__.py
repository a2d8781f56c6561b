"""Compile every kernel for all targets, print what they need, and fail where that is too much.

It fails where a kernel spills registers, needs more shared memory than the chip has, or accesses less than 16 bytes at
once where rows are contiguous; where one of the kernels that losses spend their time in needs more than its budget
(`tools.gpu_build.budgets`), or is not there; and where rows of few classes wait for each other. A target is compiled
again only if kernels, launcher, this check or the compiler have changed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # what all versions did before 3.10
os.environ.pop("TRITON_INTERPRET", None)  # read when kernels are imported

from tools.gpu_build.chips import CHIPS
from tools.gpu_build.kept import ROOT, cache_folder, collect, digest, jobs_of
from tools.gpu_build.report import show, show_one, verdict


def main() -> int:
    """Build for all targets, print the table, and return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    _ = parser.add_argument("--targets", nargs="*", choices=list(CHIPS), default=list(CHIPS))
    _ = parser.add_argument("--all", action="store_true", help="print every variant, with its loops")
    _ = parser.add_argument("--brief", action="store_true", help="few calls of each kernel, unless all are kept")
    args = parser.parse_args()
    begin = time.time()
    folder, key = cache_folder(), digest(ROOT)
    jobs = [job for target in args.targets for job in jobs_of(target, folder, key, brief=args.brief)]
    results = collect(jobs, folder, key)
    built = [b for job in jobs for b in results[job]]
    if args.all:
        for b in built:
            show_one(b)
    show(built)
    print(f"{len(built)} kernels for {len(args.targets)} targets in {time.time() - begin:.0f} s")
    return verdict(built, args.targets)


if __name__ == "__main__":
    sys.exit(main())
