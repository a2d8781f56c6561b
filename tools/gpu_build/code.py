"""Machine code as a list of instructions: which can be reached, and which loops there are.

A loop is found by its jump backwards: a jump to an instruction that every way to the jump has passed, and with it all
instructions on the ways from there back to the jump. Both sides of a branch inside a loop belong to it. What is called,
and code that warps enter only where their threads have diverged, does not: compilers put there what hardly ever runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction of a kernel."""

    kind: str = ""
    """load or store (of global memory), shared (memory), barrier; anything else is empty."""
    size: int = 0
    """Bytes of global memory that a thread reads or writes."""
    target: int | None = None
    """Where a jump goes, as a place in the list."""
    continues: bool = True
    """Whether the next instruction may follow."""
    line: str = ""
    """File and line of the source, as file:line."""


class Loop(NamedTuple):
    """A loop: where its source says so, and its instructions as places in the list."""

    name: str
    body: frozenset[int]


def reachable(code: Sequence[Instruction]) -> frozenset[int]:
    """Return the places of all instructions that can be reached from the first one."""
    return frozenset(_walk(code)[0])


def innermost_loops(code: Sequence[Instruction]) -> list[Loop]:
    """Return the loops that hold no other loop, in the order of the code."""
    reached, backwards = _walk(code)
    before: dict[int, list[int]] = {at: [] for at in reached}
    for at in reached:
        for after in _followers(code, at):
            before[after].append(at)
    bodies: dict[int, frozenset[int]] = {}
    lines: dict[int, str] = {}
    for jump, head in backwards:
        bodies[head] = bodies.get(head, frozenset()) | _body(before, jump, head)
        lines[head] = code[jump].line
    found = {head: body for head, body in bodies.items() if not any(head != h and h in body for h in bodies)}
    return [Loop(lines[head], found[head]) for head in sorted(found)]


def _followers(code: Sequence[Instruction], at: int) -> Iterable[int]:
    if (target := code[at].target) is not None:
        yield target
    if code[at].continues and at + 1 < len(code):
        yield at + 1


def _walk(code: Sequence[Instruction]) -> tuple[set[int], list[tuple[int, int]]]:
    """Return the places that are reached, depth first, and all jumps to an instruction that is still being visited."""
    seen: set[int] = set()
    open_places: set[int] = set()
    backwards: list[tuple[int, int]] = []
    stack = [(0, iter(_followers(code, 0)))] if code else []
    if code:
        seen.add(0)
        open_places.add(0)
    while stack:
        at, followers = stack[-1]
        after = next(followers, None)
        if after is None:
            _ = stack.pop()
            open_places.discard(at)
        elif after in open_places:
            backwards.append((at, after))
        elif after not in seen:
            seen.add(after)
            open_places.add(after)
            stack.append((after, iter(_followers(code, after))))
    return seen, backwards


def _body(before: dict[int, list[int]], jump: int, head: int) -> frozenset[int]:
    """Return everything that leads to the jump without passing the head, and the head."""
    body, todo = {head, jump}, [jump]
    while todo:
        at = todo.pop()
        if at != head:
            more = [b for b in before[at] if b not in body]
            body.update(more)
            todo += more
    return frozenset(body)
