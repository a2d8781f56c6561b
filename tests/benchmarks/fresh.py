"""Evaluates an expression in a process that holds little else, with the allocator that the benchmarks have there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.common import pages
from benchmarks.common.memory import ALLOCATOR


def in_fresh_process(imports: str, expression: str) -> Any:
    """Value of an expression, by way of JSON."""
    code = f"import json; {imports}; print(json.dumps({expression}))"
    environment = {**os.environ, **ALLOCATOR, "OMP_WAIT_POLICY": "PASSIVE"}  # as the benchmarks run
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pages.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)
