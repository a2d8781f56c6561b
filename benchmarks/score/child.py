"""Runs a module of the benchmarks in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.common import pages


def run_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run a module with more variables of the environment, and return the last line that it prints, read as JSON."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=pages.ROOT, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])
