"""Parse a protocol's ``augment``: ``none``, or operations in their order, such as ``random_resized_crop(0.5) + flip``.

The operations are those of torchvision's transforms on Pillow images, with their probabilities; petlbench/data/transforms.py applies them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from petlbench.errors import did_you_mean

_MOST = 1000  # of any parameter; numbers far beyond what makes sense would overflow
Interpolation = Literal["bicubic", "bilinear", "nearest", "bilinear_aliased"]


@dataclass(frozen=True)
class Operation:
    """A step on training images. Field values are checked: shares lie in [0, 1], the rest in [0, 1000]."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "interpolation":
                if value not in get_args(Interpolation):
                    raise ValueError(f"interpolation must be one of {', '.join(get_args(Interpolation))}, got {value}")
            elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
                raise ValueError(f"{field.name} must be a number from 0 to {_MOST:,}, got {value!r}")
            elif field.name in ("p", "low", "high") and value > 1:
                raise ValueError(f"{field.name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class Crop(Operation):
    """A window of the input size anywhere in the resized image."""


@dataclass(frozen=True)
class RandomResizedCrop(Operation):
    """A window of random area and aspect ratio of the image as it was read, resized to the input size."""

    low: float = 0.08  # share of the image's area, uniform between these two
    high: float = 1.0
    narrow: float = 3 / 4  # width over height, its logarithm uniform between these two
    wide: float = 4 / 3
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high or self.high == 0:
            raise ValueError(f"low must be <= high and high > 0, got {self.low} and {self.high}")
        if not 0 < self.narrow <= self.wide:
            raise ValueError(f"narrow must be > 0 and <= wide, got {self.narrow} and {self.wide}")


@dataclass(frozen=True)
class Flip(Operation):
    """Left to right."""

    p: float = 0.5


@dataclass(frozen=True)
class VerticalFlip(Operation):
    """Top to bottom."""

    p: float = 0.5


@dataclass(frozen=True)
class Jitter(Operation):
    """Brightness, contrast, saturation (each times 1 - x to 1 + x, not below 0) and hue (turned by -x to x), in random order."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hue > 0.5:
            raise ValueError(f"hue must lie in [0, 0.5], got {self.hue}")


@dataclass(frozen=True)
class Greyscale(Operation):
    """Luminance in all three channels."""

    p: float = 0.1


@dataclass(frozen=True)
class Solarize(Operation):
    """Values from the threshold on are inverted."""

    threshold: float = 128
    p: float = 0.5


WINDOWS = (Crop, RandomResizedCrop)
OPERATIONS: dict[str, type[Operation]] = {
    "crop": Crop,
    "random_resized_crop": RandomResizedCrop,
    "flip": Flip,
    "vertical_flip": VerticalFlip,
    "jitter": Jitter,
    "greyscale": Greyscale,
    "solarize": Solarize,
}
_NAMES = {operation: name for name, operation in OPERATIONS.items()}


def parse(text: str) -> tuple[Operation, ...]:
    """Parse an ``augment`` text. ValueError says what is wrong with it."""
    if text == "none":
        return ()
    try:
        terms = list(_terms(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"augment must be none or operations such as random_resized_crop(0.5) + flip, got {text[:200]!r}") from None
    operations = tuple(_operation(term) for term in terms)
    if any(isinstance(operation, WINDOWS) for operation in operations[1:]):
        raise ValueError(f"augment takes one of {', '.join(_NAMES[window] for window in WINDOWS)}, as its first operation, got {text!r}")
    return operations


def canonical(operations: tuple[Operation, ...]) -> str:
    """Return the one text for these operations, without parameters at their default."""
    return " + ".join(map(_written, operations)) or "none"


def _written(operation: Operation) -> str:
    values = {field.name: getattr(operation, field.name) for field in fields(operation)}
    changed = [
        f"{field.name}={values[field.name]}".removesuffix(".0") for field in fields(operation) if values[field.name] != field.default
    ]
    return _NAMES[type(operation)] + (f"({', '.join(changed)})" if changed else "")


def _terms(tree: ast.expr) -> Iterator[ast.expr]:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add):
        yield from _terms(tree.left)
        yield from _terms(tree.right)
    else:
        yield tree


def _operation(term: ast.expr) -> Operation:
    call = term if isinstance(term, ast.Call) else ast.Call(term, [], [])
    name = ast.unparse(call.func)
    if name not in OPERATIONS:
        raise ValueError(
            f"augment has no operation '{name}'.{did_you_mean(name, OPERATIONS)} Known: {', '.join(OPERATIONS)}; join them with +"
        )
    try:
        return OPERATIONS[name](*map(_value, call.args), **{str(word.arg): _value(word.value) for word in call.keywords})
    except TypeError:
        takes = ", ".join(field.name for field in fields(OPERATIONS[name])) or "no parameters"
        raise ValueError(f"augment {ast.unparse(term)}: {name} takes {takes}") from None
    except ValueError as error:
        raise ValueError(f"augment {ast.unparse(term)}: {error}") from None


def _value(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Constant):
        return tree.value
    raise ValueError(f"{ast.unparse(tree)} is neither a number nor a word")
