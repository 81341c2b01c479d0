"""Names for purifiers and poisons: one table, which the shell, the benchmark, ``auto`` and the docs all read.

A class registers itself with ``@register("jpeg")``. Other packages add theirs by an entry point in the group
``puretransforms.purifiers`` or ``puretransforms.poisons``.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar
from warnings import warn

from .errors import RegistryError

Role = Literal["purifier", "poison"]
T = TypeVar("T", bound=type)

_CLASSES: dict[Role, dict[str, type]] = {"purifier": {}, "poison": {}}
_OPTION = re.compile(r":(?=[A-Za-z_]\w*=)")
_COMMANDS: dict[Role, str] = {"purifier": "clean", "poison": "poison"}  # of the shell, that take them
_PYTHON = {"True": True, "False": False, "None": None}


def register(name: str) -> Callable[[T], T]:
    """Class decorator: make a purifier or a poison known as ``name``.

    The base of the class says which of the two it is, by its class attribute ``role``.

    Raises:
        RegistryError: the name is taken, or the class is neither a purifier nor a poison.
    """

    def keep(cls: T) -> T:
        role = getattr(cls, "role", None)
        if role not in _CLASSES:
            raise RegistryError(f"expected a purifier or a poison to register as {name!r}, got {cls.__name__}.")
        if _CLASSES[role].setdefault(name, cls) is not cls:
            raise RegistryError(
                f"expected a new name for {cls.__name__}, got {name!r}, which is taken: choose another."
            )
        return cls

    return keep


def list_purifiers() -> list[str]:
    """Names of all purifiers, sorted, with those that other packages add."""
    return sorted(_table("purifier"))


def list_poisons() -> list[str]:
    """Names of all poisons, sorted, with those that other packages add."""
    return sorted(_table("poison"))


def find(name: str, role: Role | None = None) -> type:
    """The class of a registered name, or of ``module:Class``.

    Args:
        name: such as ``"jpeg"`` or ``"mypackage.purifiers:Mine"``.
        role: look among ``"purifier"`` or ``"poison"`` alone; ``None`` looks among purifiers first.

    Raises:
        RegistryError: nothing of that name, or the module or class cannot be imported.
    """
    if ":" in name:
        return _imported(name, role)
    roles: tuple[Role, ...] = ("purifier", "poison") if role is None else (role,)
    for one in roles:
        found = _table(one).get(name)
        if found is not None:
            return _loaded(found, one) if isinstance(found, EntryPoint) else found
    other: Role = "poison" if role == "purifier" else "purifier"
    if role is not None and name in _table(other):
        raise RegistryError(
            f"expected a {role}, got {name!r}: {name} is a {other}: use it with puretransforms {_COMMANDS[other]}."
        )
    known = sorted(known for one in roles for known in _table(one))
    hint = _hint(name, known)
    raise RegistryError(
        f"expected a {role or 'purifier or poison'} among {', '.join(known)}, or module:Class, got {name!r}.{hint}"
    )


def _hint(name: str, known: list[str]) -> str:
    """``" Did you mean ...?"``, also where ``=`` stands for ``:option=``; empty where nothing is near."""
    head, equals, value = name.partition("=")
    near = get_close_matches(head, known, 1)
    if not near:
        return ""
    first = next(iter(parameters(find(near[0]))), "option")
    takes_text = first in ("weights", "chain", "steps")  # what stands after = is hardly meant for one of these
    meant = f"{near[0]}:{'OPTION' if takes_text else first}={value}" if equals else near[0]
    return f" Did you mean {meant!r}?"


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """``"jpeg:quality=10"`` to ``("jpeg", {"quality": 10})``: values are JSON, or else text.

    ``True``, ``False`` and ``None`` are taken as Python writes them too.

    Raises:
        RegistryError: no name, or an option that is not ``option=value``.
    """
    name, *rest = _OPTION.split(spec, maxsplit=1)
    given: dict[str, Any] = {}
    while rest:
        key, _, text = rest[0].partition("=")
        given[key], rest = _value(text)
    module, colon, last = name.rpartition(":")
    if not name or (colon and not (module and last.isidentifier())):
        raise RegistryError(f"expected name:option=value or module:Class:option=value, got {spec!r}.")
    return name, given


def _value(text: str) -> tuple[Any, list[str]]:
    """The value at the start of ``text``, and what follows it: more options, or nothing.

    A value in brackets or quotes may hold what looks like an option.
    """
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        value, end = None, -1
    if end == len(text):
        return value, []
    if end > 0 and _OPTION.match(text, end):
        return value, [text[end + 1 :]]
    value, *rest = _OPTION.split(text, maxsplit=1)
    return _PYTHON.get(value, value), rest


def create(spec: str, role: Role | None = None, **options: Any) -> Any:
    """Make a purifier or a poison from text.

    Args:
        spec: ``"jpeg"``, ``"jpeg:quality=10"``, ``"mypackage.purifiers:Mine:strength=2"``; values are JSON or text.
        role: ``"purifier"`` or ``"poison"``, where only one of the two is wanted.
        **options: further arguments; those of ``spec`` win.

    Raises:
        RegistryError: no such name, or arguments that the class does not take.

    >>> create("jpeg:quality=10").quality
    10
    """
    name, given = parse(spec)
    cls = find(name, role)
    try:
        return cls(**{**options, **given})
    except (TypeError, ValueError) as error:
        takes = ", ".join(parameters(cls))
        raise RegistryError(f"{spec!r} makes no {cls.__name__}: {error} ({name} takes {takes})") from error


def name_of(cls: type) -> str | None:
    """The registered name of a class; ``None`` where it has none."""
    for table in _CLASSES.values():
        for name, known in table.items():
            if known is cls:
                return name
    return None


def summary(name: str, role: Role | None = None) -> str:
    """What a purifier or poison does, in one line: the first of its docstring."""
    return (inspect.getdoc(find(name, role)) or "").partition("\n")[0]


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments that ``cls`` takes by name, with those that a ``**base`` of its ``__init__`` hands up."""
    found: dict[str, inspect.Parameter] = {}
    for level in cls.__mro__:
        if "__init__" in vars(level):
            own = list(inspect.signature(vars(level)["__init__"]).parameters.values())[1:]
            found = {one.name: one for one in own if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)} | found
            if not any(one.kind == one.VAR_KEYWORD for one in own):
                break
    return found


def refuse_unknown(cls: type, given: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` for an argument that ``cls`` does not take, with the nearest that it does.

    Python's own message names the class whose ``__init__`` was found, and suggests nothing.
    """
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
        return
    known = list(parameters)[1:]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}."
            raise TypeError(f"{cls.__name__} takes no argument {name!r}: {hint}")


def _table(role: Role) -> dict[str, type | EntryPoint]:
    own, added = _CLASSES[role], _entry_points(role)
    for name in own.keys() & added.keys():
        if added[name].value != f"{own[name].__module__}:{own[name].__qualname__}":
            where = added[name].value
            warn(f"the {role} {name!r} of an installed package, {where}, is not used: the name is taken.", stacklevel=3)
    return {**added, **own}


@lru_cache
def _entry_points(role: Role) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"puretransforms.{role}s")}


def _loaded(point: EntryPoint, role: Role) -> type:
    try:
        cls = point.load()
    except Exception as error:
        raise RegistryError(
            f"expected {point.name!r} at {point.value}, as an installed package says, got {type(error).__name__}: "
            f"{error}: repair or uninstall that package."
        ) from error
    if not isinstance(cls, type) or getattr(cls, "role", None) != role:
        raise RegistryError(
            f"expected the class of a {role} at {point.value}, as an installed package says of {point.name!r}, got "
            f"{cls!r}: repair or uninstall that package."
        )
    return cls


def _imported(name: str, role: Role | None) -> type:
    module, _, attribute = name.rpartition(":")
    if any(module in _table(known) for known in _CLASSES):
        raise RegistryError(f"expected options as {module}:option=value, got {name!r}.")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RegistryError(f"expected an importable module:Class, got {name!r}: {error}.") from error
    if not isinstance(cls, type) or (role is not None and getattr(cls, "role", role) != role):
        raise RegistryError(f"expected the class of a {role or 'purifier or poison'} at {name!r}, got {cls!r}.")
    return cls
