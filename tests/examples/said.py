"""What an example said on standard error, without what torchao says wherever transformers finds it.

transformers imports torchao if it is installed, and torchao complains on machines without its GPU: of files that it
cannot load, and of its own use of torch.
"""

from __future__ import annotations

import re

_OF_TORCHAO = re.compile(r"Failed to load .*torchao.*|W\d{4} .*torch/utils/_pytree\.py.*register_constant.*")


def said(stderr: str) -> str:
    """Return the lines that are the example's own."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not _OF_TORCHAO.match(line))
