"""What constructors accept: each function returns the value, or raises with one sentence that says what was expected.

The wrong kind of value is a ``TypeError``, the right kind out of range a ``ValueError``.
"""

import operator
from collections.abc import Iterable
from math import inf, isfinite, isnan
from numbers import Real
from typing import Any, Literal, TypeVar, overload

T = TypeVar("T")


def whole(name: str, value: Any, *, least: int | None = None, most: int | None = None, odd: bool = False) -> int:
    """``value`` as an int, which it must be; numpy's integers are taken, booleans and floats are not.

    Args:
        name: of the argument, for the message.
        value: what the user gave.
        least: the smallest allowed, included.
        most: the largest allowed, included.
        odd: refuse even numbers.
    """
    expected = f"expected {name} as {'an odd' if odd else 'a'} whole number{_bounds(least, most)}, got {value!r}"
    number = as_int(value)
    if number is None:
        raise TypeError(f"{expected}: pass {_nearest(value, least, most, odd)}.")
    if (least is not None and number < least) or (most is not None and number > most) or (odd and number % 2 == 0):
        raise ValueError(f"{expected}: pass {_nearest(number, least, most, odd)}.")
    return number


def number(
    name: str,
    value: Any,
    *,
    least: int | float | None = None,
    most: int | float | None = None,
    above: int | float | None = None,
    finite: bool = True,
    unit: str = "",
) -> float:
    """``value`` as a float; ints and numpy's scalars are taken, booleans, strings and NaN are not.

    Args:
        name: of the argument, for the message.
        value: what the user gave.
        least: the smallest allowed, included.
        most: the largest allowed, included.
        above: what it must be larger than.
        finite: refuse the infinities.
        unit: for the message, such as ``"pixels"``.
    """
    kind = "a finite number" if finite and most is None else "a number"
    expected = f"expected {name} as {kind}{_bounds(least, most, above)}{f' in {unit}' if unit else ''}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{expected}: pass {_unquoted(value, float) or 'an int or a float'}.")
    found = float(value)
    low, high = -inf if least is None else least, inf if most is None else most
    inside = low <= found <= high and (above is None or found > above)  # NaN is not
    if isnan(found) or not inside or (finite and not isfinite(found)):
        raise ValueError(f"{expected}: pass one of these.")
    return found


def choice(name: str, value: T, options: Iterable[Any]) -> T:
    """``value``, if it is one of ``options``."""
    known = list(options)
    if not any(value is option or (type(value) is type(option) and value == option) for option in known):
        raise ValueError(f"expected {name} to be one of {', '.join(map(_shown, known))}, got {value!r}.")
    return value


def flag(name: str, value: Any) -> bool:
    """``value``, if it is ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise TypeError(f"expected {name} as True or False, got {value!r}: pass one of the two.")
    return value


@overload
def seed(value: Any, *, bits: int = 63, optional: Literal[False]) -> int: ...


@overload
def seed(value: Any, *, bits: int = 63, optional: bool = True) -> int | None: ...


def seed(value: Any, *, bits: int = 63, optional: bool = True) -> int | None:
    """A seed: a whole number from 0 to ``2**bits - 1``, or where ``optional`` ``None``, which draws anew."""
    if value is None and optional:
        return None
    expected = f"expected seed as a whole number from 0 to 2**{bits} - 1{' or None' if optional else ''}, got {value!r}"
    found = as_int(value)
    if found is None:
        raise TypeError(f"{expected}: pass {_unquoted(value, int) or 'an int'}.")
    if not 0 <= found < 2**bits:
        raise ValueError(f"{expected}: pass one of these.")
    return found


def chunk_size(value: Any) -> int | str:
    """``"auto"``, or a number of images from 1."""
    if isinstance(value, str) and value == "auto":
        return value
    try:
        return whole("chunk_size", value, least=1)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f'expected chunk_size as "auto" or a whole number of images of at least 1, got {value!r}: pass '
            f"{_nearest(value, 1, None, False)}."
        ) from None


def as_int(value: Any) -> int | None:
    """``value`` as an int; ``None`` for booleans and for what is no integer."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _bounds(least: int | float | None, most: int | float | None, above: int | float | None = None) -> str:
    if above is not None:
        return f" above {above:g}" + ("" if most is None else f" and at most {_plain(most)}")
    if least is not None and most is not None:
        return f" from {_plain(least)} to {_plain(most)}"
    if least is not None:
        return f" of at least {_plain(least)}"
    return "" if most is None else f" of at most {_plain(most)}"


def _plain(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _nearest(value: Any, least: int | None, most: int | None, odd: bool) -> str:
    """What to pass instead: the value without its quotes or fraction, moved into the range; else ``an int``."""
    if isinstance(value, str) and _unquoted(value, int):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        return "an int"
    near = int(float(value)) if not isinstance(value, int) else value
    near = near if least is None else max(near, least)
    near = near if most is None else min(near, most)
    if odd and near % 2 == 0:
        near = near - 1 if most is not None and near + 1 > most else near + 1
    return f"for example {near}"


def _unquoted(value: Any, kind: type) -> str:
    """The number that a string spells, without quotes; empty where it spells none."""
    try:
        return f"{kind(value)!r} without quotes" if isinstance(value, str) and isfinite(kind(value)) else ""
    except ValueError:
        return ""


def _shown(option: Any) -> str:
    return option if isinstance(option, str) else repr(option)
