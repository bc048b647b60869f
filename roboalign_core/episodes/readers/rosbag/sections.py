"""Keys and values of a yaml file, checked one by one."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

from roboalign_core.errors import RoboAlignError

_REQUIRED: Any = object()


class Section:
    """A mapping in a yaml file that remembers what it was asked for: the rest is unknown.

    Every method raises a RoboAlignError that names file, key, expected and found.

    Args:
        where: file and keys that lead here.
        values: what stands there.
    """

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise RoboAlignError(f"{where}: expected keys and values, found {reprlib.repr(values)}")
        self.where, self.values = where, values
        self._asked: dict[Any, list[Section]] = {}

    def text(self, key: str, usual: Any = _REQUIRED) -> Any:
        """A text that is not empty."""
        return self._value(key, usual, "a text", lambda value: isinstance(value, str) and bool(value.strip()))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where the key is absent."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        return tuple(self._value(key, [], "a list of texts", fits))

    def number(self, key: str, low: float, high: float, usual: Any = _REQUIRED) -> float:
        """A number in a range."""

        def fits(value: Any) -> bool:
            return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

        return float(self._value(key, usual, f"a number from {low:g} to {high:g}", fits))

    def choice(self, key: str, among: tuple[str, ...], usual: Any = _REQUIRED) -> str:
        """One of a few words."""
        return str(self._value(key, usual, " or ".join(among), lambda value: value in among))

    def section(self, key: str) -> Section | None:
        """The mapping at a key; None where the key is absent."""
        value = self._value(key, None, "keys and values", lambda value: isinstance(value, dict))
        return None if value is None else self._below(key, [value])[0]

    def named(self, key: str) -> dict[str, Section]:
        """The mappings in the mapping at a key, by name; empty where the key is absent."""
        outer = self.section(key)
        names = [] if outer is None else [name for name in outer.values if isinstance(name, str)]
        return {} if outer is None else {name: outer._below(name, [outer.values[name]])[0] for name in names}

    def sections(self, key: str) -> list[Section]:
        """The mappings in the list at a key; empty where the key is absent."""
        values = self._value(key, [], "a list", lambda value: isinstance(value, list))
        return self._below(key, values, places=True)

    def finish(self) -> None:
        """Refuse what nobody asked for, here and in all sections below."""
        unknown = [key for key in self.values if key not in self._asked]
        if unknown:
            known = ", ".join(sorted(self._asked)) or "none"
            raise RoboAlignError(f"{self.where}: expected among the keys {known}; found {reprlib.repr(unknown[0])}")
        for section in (section for below in self._asked.values() for section in below):
            section.finish()

    def _below(self, key: str, values: list[Any], places: bool = False) -> list[Section]:
        names = [f"{key}[{place}]" if places else key for place in range(len(values))]
        found = [Section(f"{self.where}: {name}", value) for name, value in zip(names, values, strict=True)]
        self._asked[key] = found
        return found

    def _value(self, key: str, usual: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        self._asked.setdefault(key, [])
        value = self.values.get(key)
        if value is None and usual is not _REQUIRED:
            return usual
        if value is None or not fits(value):
            found = "nothing" if value is None else reprlib.repr(value)
            raise RoboAlignError(f"{self.where}: {key}: expected {wanted}, found {found}")
        return value
