"""Read pickles of texts, numbers, lists and numpy arrays of integers, and run nothing.

CIFAR's batches are pickles. ``pickle.Unpickler`` calls what a file asks for with what it says, and an array of objects over given bytes, or a memo of
2**31 entries, is enough to end the process. So the opcodes are read here: those that these files use, of protocols 0 to 5, and no others; names stand
for the few forms in which numpy stores an array, which is made from its bytes alone.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**30  # of a file; CIFAR's largest has 155 MB
_MOST_STEPS = 5_000_000  # opcodes; CIFAR's largest file has 250,000
_MOST_DIMENSIONS = 4
_DTYPES = {"u1": "|", "i4": "<", "i8": "<"}  # with their byte order


class _Name(Enum):
    RECONSTRUCT = "numpy._core.multiarray._reconstruct"
    FROM_BUFFER = "numpy._core.numeric._frombuffer"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"


@dataclass
class _Type:
    """A dtype, of which a file then sets the byte order."""

    name: str


@dataclass
class _Array:
    """An array, which a file announces and then fills."""

    value: NDArray[Any] | None = None


def load(content: bytes) -> dict[str, Any]:
    """Return a pickled mapping of texts to texts, numbers, lists of these and arrays. ValueError says what else it is."""
    result = _Reader(content).result()
    if not isinstance(result, dict):
        raise ValueError("it is no mapping")
    return {key: value.value if isinstance(value, _Array) else value for key, value in result.items()}


class _Reader:
    """A stack machine for the opcodes of one pickle."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.place = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        for _ in range(_MOST_STEPS):
            code = self._bytes(1)
            if code == b".":
                return self._pop()
            if code in _SIZED:
                form, convert = _SIZED[code]
                self.stack.append(convert(self._bytes(self._number(form))))
            elif code in _NUMBERS:
                self.stack.append(self._number(_NUMBERS[code]))
            elif code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _STEPS:
                _STEPS[code](self)
            else:
                raise ValueError(f"it holds the opcode {code!r}, which files of arrays do not")
        raise ValueError(f"it has more than {_MOST_STEPS:,} opcodes")

    def _bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self.content) - self.place:
            raise ValueError("it ends in the middle")
        self.place += count
        return self.content[self.place - count : self.place]

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._bytes(struct.calcsize(form)))[0])

    def _line(self) -> bytes:
        end = self.content.find(b"\n", self.place)
        line = self._bytes((len(self.content) if end < 0 else end) - self.place)
        self._bytes(1)
        return line

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("its stack is empty")
        return self.stack.pop()

    def _several(self) -> list[Any]:
        """Take what lies above the last mark."""
        if not self.marks:
            raise ValueError("its stack has no mark")
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _put(self, number: int) -> None:
        self.memo[number] = self.stack[-1] if self.stack else None

    def _get(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError(f"it has no memo {number}")
        self.stack.append(self.memo[number])

    def _filled(self, empty: Any, fill: Callable[[_Reader, list[Any]], None]) -> None:
        values = self._several()
        self.stack.append(empty)
        fill(self, values)

    def _append(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise ValueError("it appends to what is no list")
        if not all(isinstance(value, (int, str)) for value in values):
            raise ValueError("it holds a list of other things than numbers and texts")
        target += values
        self.stack.append(target)

    def _set(self, values: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("it sets items of what is no mapping of texts")
        target.update(zip(values[::2], values[1::2], strict=True))
        self.stack.append(target)

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a thing by what is no text")
        try:
            self.stack.append(_Name(f"{module}.{name}".replace("numpy.core.", "numpy._core.")))  # numpy 1 and 2
        except ValueError:
            raise ValueError(f"it asks for {ascii(f'{module}.{name}'[:100])[1:-1]}") from None

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        match function, arguments:
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), "b" | b"b"):
                self.stack.append(_Array())
            case _Name.DTYPE, (str(name), 0 | 1, 0 | 1) if name in _DTYPES:
                self.stack.append(_Type(name))
            case _Name.ENCODE, (str(text), "latin1"):
                self.stack.append(text.encode("latin-1"))
            case _Name.FROM_BUFFER, (raw, _Type() as dtype, tuple(shape), "C" | "F" as order):
                self.stack.append(_Array(_array(raw, dtype, shape, order)))
            case _:
                raise ValueError("it calls a function in another way than a file of numbers does")

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        match target, state:
            case _Type(name), (3, order, None, None, None, -1, -1, 0) if order == _DTYPES[name]:
                pass
            case _Array(), (1, tuple(shape), _Type() as dtype, 0 | 1 as is_fortran, raw):
                target.value = _array(raw, dtype, shape, "F" if is_fortran else "C")
            case _:
                raise ValueError("it holds an array or a type of another kind than integers")
        self.stack.append(target)


def _array(raw: object, dtype: _Type, shape: tuple[Any, ...], order: Any) -> NDArray[Any]:
    content = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 had no bytes
    if not isinstance(content, bytes) or len(shape) > _MOST_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("it holds an array without bytes or without a shape")
    return np.frombuffer(content, dtype.name).reshape(shape, order=order)


def _integer(content: bytes) -> int:
    if len(content) > 8:
        raise ValueError("it holds a number of more than 64 bits")
    return int.from_bytes(content, "little", signed=True)


def _decimal(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    number = int(line.removesuffix(b"L"))
    if abs(number) >= 2**63:
        raise ValueError("it holds a number of more than 64 bits")
    return number


def _latin(content: bytes) -> str:
    return content.decode("latin-1")


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"\"'":
        raise ValueError("it holds a text without quotation marks")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H"}
_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_SIZED: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {  # format of the size
    b"U": ("<B", _latin),  # as Python 2 wrote texts and bytes
    b"T": ("<i", _latin),
    b"X": ("<I", bytes.decode),
    b"\x8c": ("<B", bytes.decode),
    b"\x8d": ("<Q", bytes.decode),
    b"C": ("<B", bytes),
    b"B": ("<I", bytes),
    b"\x8e": ("<Q", bytes),
    b"\x96": ("<Q", bytes),
    b"\x8a": ("<B", _integer),
    b"\x8b": ("<i", _integer),
}
_STEPS: dict[bytes, Callable[[_Reader], object]] = {
    b"\x80": lambda reader: reader._bytes(1),  # the protocol
    b"\x95": lambda reader: reader._bytes(8),  # the size of a frame, which is not needed
    b"(": lambda reader: reader.marks.append(len(reader.stack)),
    b"}": lambda reader: reader.stack.append({}),
    b"]": lambda reader: reader.stack.append([]),
    b"d": lambda reader: reader._filled({}, _Reader._set),
    b"l": lambda reader: reader._filled([], _Reader._append),
    b"t": lambda reader: reader.stack.append(tuple(reader._several())),
    b"\x85": lambda reader: reader._tuple(1),
    b"\x86": lambda reader: reader._tuple(2),
    b"\x87": lambda reader: reader._tuple(3),
    b"a": lambda reader: reader._append([reader._pop()]),
    b"e": lambda reader: reader._append(reader._several()),
    b"s": lambda reader: reader._set([reader._pop(), reader._pop()][::-1]),
    b"u": lambda reader: reader._set(reader._several()),
    b"p": lambda reader: reader._put(int(reader._line())),
    b"q": lambda reader: reader._put(reader._number("<B")),
    b"r": lambda reader: reader._put(reader._number("<I")),
    b"\x94": lambda reader: reader._put(len(reader.memo)),
    b"g": lambda reader: reader._get(int(reader._line())),
    b"h": lambda reader: reader._get(reader._number("<B")),
    b"j": lambda reader: reader._get(reader._number("<I")),
    b"I": lambda reader: reader.stack.append(_decimal(reader._line())),
    b"L": lambda reader: reader.stack.append(_decimal(reader._line())),
    b"S": lambda reader: reader.stack.append(_quoted(reader._line())),
    b"V": lambda reader: reader.stack.append(reader._line().decode("raw-unicode-escape")),
    b"c": lambda reader: reader._name(_latin(reader._line()), _latin(reader._line())),
    b"\x93": lambda reader: reader._name(*[reader._pop(), reader._pop()][::-1]),
    b"R": _Reader._reduce,
    b"b": _Reader._build,
}
