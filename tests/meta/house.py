"""The rules of the house, each a function that takes the folder of a project and returns what breaks the rule.

They read files only, so that a test can plant a small project that breaks each of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

LINES = 400
PRIVATE = 12
OF_A_FOLDER = 3, 8
"""Lines of a folder's docstring: so many at least, and so many lines of text at most."""
GONE = ("_TENSORS", "_ARGUMENTS", "[6:14]")
"""Ways to say which places of a list of arguments are meant; a record with named fields says which fields."""
WITHOUT_A_TEST = {"__init__", "__main__", "version"}


def modules(root: Path) -> dict[str, Path]:
    """Python modules of the package by dotted name; a folder is the name of its `__init__`."""
    found: dict[str, Path] = {}
    for path in sorted((root / "src").rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def untested(root: Path, elsewhere: Mapping[str, str]) -> list[str]:
    """Modules without a test module of their name: tests/A/test_B.py or tests/A/test_B_*.py for crossent/A/B.py.

    `elsewhere` names the tests of modules whose test modules have other names.
    """
    missing: list[str] = []
    for name, path in modules(root).items():
        if path.stem in WITHOUT_A_TEST or name in elsewhere:
            continue
        folder = root / "tests" / Path(*name.split(".")[1:-1])
        if not [*folder.glob(f"test_{path.stem}.py"), *folder.glob(f"test_{path.stem}_*.py")]:
            missing.append(f"{name}: no {folder.relative_to(root)}/test_{path.stem}.py")
    return missing


def stale(root: Path, elsewhere: Mapping[str, str]) -> list[str]:
    """Entries of `elsewhere` whose module or test is not there."""
    known = modules(root)
    return [f"{name}: {test}" for name, test in elsewhere.items() if name not in known or not (root / test).is_file()]


def long_files(root: Path) -> list[str]:
    """Files of Python and C++ with too many lines."""
    files = [path for folder in ("src", "cpp") for path in sorted((root / folder).rglob("*"))]
    sources = [path for path in files if path.suffix in {".py", ".pyi", ".cpp", ".h"}]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    return [f"{path.relative_to(root)}: {length} lines" for path, length in lengths.items() if length > LINES]


def private(root: Path) -> list[str]:
    """Modules and folders whose name begins with one underscore."""
    paths = sorted((root / "src").rglob("_*"))
    return [
        str(path.relative_to(root))
        for path in paths
        if not path.name.startswith("__") and (path.is_dir() or path.suffix in {".py", ".pyi"})
    ]


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, imports for types and within functions counted; or none."""
    known = modules(root)
    graph = {name: set(_imports(path, name, known)) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _imports(path: Path, name: str, known: Mapping[str, Path]) -> Iterator[str]:
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package.split(".")[: len(package.split(".")) + 1 - node.level])
            base = ".".join(filter(None, (above, node.module))) if node.level else str(node.module)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in known or base in known:
                    yield full if full in known else base


def phrases(root: Path) -> list[str]:
    """Lines of the package with one of the phrases that are gone."""
    return [
        f"{path.relative_to(root)}:{number}: {phrase}"
        for path in sorted((root / "src").rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for phrase in GONE
        if phrase in line
    ]


def unexplained(root: Path) -> list[str]:
    """Folders whose `__init__` does not say in a few lines who lives there and who may come in."""
    least, most = OF_A_FOLDER
    faults: list[str] = []
    folders = {path.parent for path in modules(root).values()}
    for folder in sorted(folders):
        init = folder / "__init__.py"
        text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) if init.is_file() else None
        lines = (text or "").splitlines()
        if len(lines) < least or len([line for line in lines if line.strip()]) > most:
            faults.append(f"{init.relative_to(root)}: {len(lines)} lines")
    return faults
