"""The command line in a Python that lacks some packages."""

from __future__ import annotations

import subprocess
import sys

_WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def find_spec(name, package=None):
    return None if name.partition(".")[0] in ABSENT else real(name, package)

import importlib.util
ABSENT = set(sys.argv.pop(1).split(","))
real, importlib.util.find_spec = importlib.util.find_spec, find_spec
sys.meta_path.insert(0, Absent())
from crossent.cli import main
main()
"""


def run_without(modules: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh Python that does not have the modules."""
    command = [sys.executable, "-W", "error", "-c", _WITHOUT, modules, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
