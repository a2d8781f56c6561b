"""Files that are read: regular ones, and none of the others that the system calls files."""

from __future__ import annotations

import stat
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a pipe, which cannot be read twice",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def why_not_readable(path: Path) -> str | None:
    """Return why a path is not read as a file, or None.

    Pipes and devices may have no end, and opening one may wait forever for a writer.

    Raises
    ------
    OSError
        If there is nothing at this path.

    Examples
    --------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "rows.csv").write_text("")
    >>> why_not_readable(folder / "rows.csv")
    'is empty'
    """
    found = path.stat()
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        return f"is {kind}; save its contents to a file first"
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:  # as the files of /proc are, which may have no end
        return "is empty"
    return None
