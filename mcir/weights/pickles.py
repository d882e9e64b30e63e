"""Check a pickle without executing it: it must not need more memory or time than its size justifies."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import IO, Any

from mcir.weights.errors import UnreadableError

MAX_DEPTH = 100
"""Largest depth of nested objects."""

_WORK_PER_BYTE = 64  # the files that torch.save writes need less than 10
_FREE_WORK = 2**16
_CALLABLE = {
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "_codecs.encode",
    "numpy.dtype",
    *(f"numpy.{package}.multiarray.{name}" for package in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch.Size",
    "torch.device",
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    *(f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state")),
}
_PYTHON_2 = {"__builtin__": "builtins"}  # torch.save writes the module names of Python 2
_CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_CALLS = {"REDUCE", "NEWOBJ"}


@dataclass(eq=False, slots=True)
class _Object:
    """An object that the pickle builds.

    Attributes:
        size: number of bytes and objects that it consists of, where shared objects count each time.
        depth: number of objects that are nested in each other.
        stored: whether it is part of another object.
        name: full name of a class or function.
    """

    size: int = 1
    depth: int = 1
    stored: bool = False
    name: str = ""

    def add(self, parts: list[_Object]) -> None:
        for part in parts:
            part.stored = True
            self.size += part.size
            self.depth = max(self.depth, part.depth + 1)


def check_pickle(stream: IO[bytes]) -> None:
    """Check a pickle from its opcodes, and leave the stream at its end.

    Each object must be complete before it becomes part of another one, as in every pickle of a tree, so that no object
    contains itself. The work of building and of hashing all objects, in which shared objects count each time, must be
    proportional to the size of the pickle.

    Raises:
        UnreadableError: the pickle is damaged, calls functions that do not build tensors or containers, or is
            out of proportion.
    """
    start = stream.tell()
    stack: list[_Object] = []
    marks: list[int] = []
    memo: dict[Any, _Object] = {}
    work = 0
    for opcode, argument, position in pickletools.genops(stream):
        name = opcode.name
        if name == "PROTO" and argument != 2:
            raise UnreadableError(f"its pickle protocol is {argument}, expected 2")
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif opcode.stack_after:
            at = marks.pop() if pickletools.markobject in opcode.stack_before else None
            at = len(stack) - len(opcode.stack_before) if at is None else at
            at -= name in _CHANGES and pickletools.markobject in opcode.stack_before
            parts, stack[at:] = stack[at:], []
            work += _apply(name, argument, parts, stack)
        if work > _WORK_PER_BYTE * ((position or 0) - start) + _FREE_WORK:
            raise UnreadableError("its content refers to itself too often (a file of this size needs less memory)")


def _apply(name: str, argument: object, parts: list[_Object], stack: list[_Object]) -> int:
    """Push the object that an opcode builds from parts, or changes, and return the work."""
    if name in _CALLS and parts[0].name not in _CALLABLE:
        raise UnreadableError("it contains objects other than tensors")
    if name in _CHANGES:
        target, *parts = parts
    else:
        target = _Object(size=1 + (len(argument) if isinstance(argument, str | bytes) else 0))
        if name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            target.name = f"{_PYTHON_2.get(module, module)}.{attribute}"
    before = target.size
    target.add(parts)
    if target.stored:
        raise UnreadableError("it contains an object that contains itself")
    if target.depth > MAX_DEPTH:
        raise UnreadableError(f"its objects are nested more than {MAX_DEPTH} levels deep")
    stack.append(target)
    return target.size - before + 1
