"""Properties of the processor for plans: width of its vectors, sizes of its caches, matrix units for bfloat16.

Whether there are vectors of a kind is asked of torch, whose products are planned here. Cache sizes are those of the
first core in Linux. Other systems show none without a further package; there `USUAL` ones are assumed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import platform

import torch

_CACHES = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True, slots=True)
class Processor:
    """Facts of a processor; `plan.cpu_device` derives its properties from them."""

    lanes: int
    """Numbers in a float32 vector: 16 with AVX-512, 8 with AVX2, 4 with NEON or SSE."""
    cache_bytes: int
    """Size of the largest cache that a core writes to: the L3 of its cluster, or the L2 where there is none."""
    matrix_units: bool
    """Whether there are matrix units for bfloat16 (AMX)."""


USUAL = {2: 2**20, 3: 2**24}
"""Bytes of the caches of each level where the system does not say."""


def this_processor() -> Processor:
    """Return the facts of the processor that this process runs on."""
    caches = cache_sizes(_CACHES) or USUAL
    return Processor(_lanes(), max(caches.values()), _has("_is_amx_tile_supported"))


def cache_sizes(folder: pathlib.Path) -> dict[int, int]:
    """Return bytes of the data caches from level 2 on, by level, from this folder of Linux; empty if it does not."""
    found: dict[int, int] = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            number = int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
            if kind != "Instruction" and int(level) >= 2 and number > 0:
                found[int(level)] = number
        except (OSError, ValueError, IndexError):  # a virtual machine may leave files out, or leave them empty
            continue
    return found


def _lanes() -> int:
    if _has("_is_avx512_supported"):
        return 16
    return 8 if _has("_is_avx2_supported") else 4


def _has(name: str) -> bool:
    """Return the answer of a function of torch.cpu; torch lacks it where no such processor is built for."""
    return platform.machine() in ("x86_64", "AMD64") and bool(getattr(torch.cpu, name, lambda: False)())


THIS = this_processor()
"""Known at import, because compilers read it."""
