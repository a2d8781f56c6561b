"""The description of the machine that results carry."""

from __future__ import annotations

import json
import platform

import torch

from benchmarks.common import machine
from benchmarks.common.pages import ROOT


def test_the_machine_is_described_without_names_of_hosts_or_paths():
    about = machine.describe()
    text = json.dumps(about)
    assert str(ROOT) not in text
    assert platform.node() not in text.split('"')
    assert about["machine"]["isa"] in ("baseline", "avx2", "avx512", "neon")
    assert about["versions"]["torch"] == torch.__version__
