"""Read the pickles of the official batch files without running anything that they name.

pickle.Unpickler calls what a file names, and NumPy trusts the state that a file gives to its objects:
a crafted file can run code, or make NumPy follow pointers of the file's choice. Here an object is only
described, and only the opcodes that batch files use are executed.
"""

import pickletools
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = {
    "numpy.core.multiarray _reconstruct",  # before NumPy 2
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(eq=False)
class Described:
    """An object as a pickle describes it: its constructor, the arguments, and its state."""

    name: str
    arguments: Any = None
    state: Any = None


def read(content: bytes) -> Any:
    """Return the pickled value, with each object as Described and Python 2's text as bytes.

    Raises:
        UnpicklingError: it has an opcode or a name that batch files do not have.
        Exception: any other, for damaged bytes.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def take(count: int) -> tuple[Any, ...]:
        items = tuple(stack[len(stack) - count :])
        del stack[len(stack) - count :]
        return items

    def since_mark() -> tuple[Any, ...]:
        return take(len(stack) - marks.pop())

    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1"))  # as genops decodes it
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(CONSTANTS[opcode.name])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(since_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(take(int(opcode.name[-1])))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND" | "APPENDS":
                items = take(1) if opcode.name == "APPEND" else since_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                items = take(2) if opcode.name == "SETITEM" else since_mark()
                keys, values = items[::2], items[1::2]
                # Hashing a tuple in a tuple in … a tuple would overflow the C stack.
                if not all(isinstance(key, bytes) for key in keys):
                    raise UnpicklingError("it has a dictionary with keys that are not bytes")
                stack[-1].update(zip(keys, values, strict=True))
            case "GLOBAL":
                stack.append(_named(argument))
            case "STACK_GLOBAL":
                stack.append(_named(" ".join(take(2))))
            case "REDUCE":
                function, arguments = take(2)
                stack.append(Described(function.name, arguments))
            case "BUILD":
                (state,) = take(1)
                stack[-1].state = state
            case _:
                raise UnpicklingError(f"it has the opcode {opcode.name}, which is refused")
    return stack.pop()


def _named(name: str) -> Described:
    if name not in NAMES:
        raise UnpicklingError(f"it names {name[:80]!r}, which is refused")
    return Described(name)


def rows(described: object, length: int) -> npt.NDArray[np.uint8]:
    """Return the described array, uint8 (N, length), read-only, as a view of its bytes.

    Raises:
        UnpicklingError: it is not such an array.
    """
    match described:
        case Described(
            state=(
                _,  # a version
                (int(count), int(width)),
                Described("numpy dtype", ("u1" | b"u1", *_)),
                False,  # not in Fortran's order
                bytes(content),
            )
        ) if width == length and len(content) == count * width:
            return np.frombuffer(content, np.uint8).reshape(count, width)
    raise UnpicklingError(f"its data is not uint8 (N, {length}) in C order")
