"""Classes of processors: what a result is true of, as far as one may generalise from one machine.

A class is the vendor, the widest instruction set and, where there are some, the units that multiply bfloat16:
"Intel, AVX-512, AMX" or "AMD, AVX2". It follows from what a record says of its machine, and is typed nowhere.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETS = {"avx512": "AVX-512", "avx2": "AVX2", "neon": "NEON", "baseline": "no AVX2"}
"""Names of instruction sets, by what the core calls them."""

VENDORS = {
    "GenuineIntel": "Intel",
    "AuthenticAMD": "AMD",
    "HygonGenuine": "Hygon",
    "0x41": "Arm",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}
"""Vendors, by the identifiers that Linux reads from an x86 or ARM processor."""


def class_of(machine: Mapping[str, Any]) -> str:
    """Return the class of a machine's processor.

    >>> class_of({"cpu": "AMD EPYC 7B13", "vendor": "AMD", "widest": "avx2", "isa": "avx2", "amx": False})
    'AMD, AVX2'

    A record that does not name its vendor has it in the model's name, and its widest set is the one that was used.
    """
    used = machine["isa"]
    widest = machine.get("widest", used)
    products = "AMX" if machine.get("amx") else "BF16" if machine.get("bf16") else None
    kept_to = f"kept to {SETS[used]}" if used != widest else None
    vendor = machine.get("vendor") or vendor_in(machine["cpu"])
    return ", ".join(filter(None, [vendor, SETS[widest], products, kept_to]))


def slug(name: str) -> str:
    """Return the name of a class as it stands in the name of a file.

    >>> slug("Intel, AVX-512, AMX"), slug("AMD, AVX2")
    ('intel-avx512-amx', 'amd-avx2')
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("avx-", "avx"))


def vendor() -> str:
    """Return who made the processor of this machine."""
    return vendor_in(_cpuinfo(), platform.processor() or platform.machine())


def vendor_in(text: str, otherwise: str = "unknown") -> str:
    """Return the vendor that a text names or has the identifier of, and else another text."""
    found = [name for identifier, name in VENDORS.items() if re.search(rf"\b{identifier}\b", text)]
    found += [name for name in VENDORS.values() if re.search(rf"\b{name}\b", text)]
    return found[0] if found else otherwise


def _cpuinfo() -> str:
    """Return the lines of the first processor in which Linux names its vendor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return "\n".join([line for line in lines if re.match("vendor_id|CPU implementer", line)][:1])
