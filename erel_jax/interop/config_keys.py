"""Values of a `config.json`, checked as they are read."""

from collections.abc import Mapping
from typing import Any

from erel_jax.errors import ConfigError


def expect(document: Mapping[str, Any], key: str, value: Any) -> None:
    """Refuses a document whose `key` is there with another value than the one implemented."""
    if document.get(key, value) != value:
        raise ConfigError(f"config.json has {key} = {document[key]!r}; only {value!r} is implemented.")


def boolean(document: Mapping[str, Any], key: str, default: bool) -> bool:
    """A truth value of the document, or the default.

    Raises:
        ConfigError: another value.
    """
    value = document.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"config.json has {key} = {value!r}, expected true or false.")
    return value


def section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object of the document; null and a missing one are empty.

    Raises:
        ConfigError: another value.
    """
    value = document.get(key)
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"config.json has {key} = {value!r}, expected an object.")
    return value or {}


def integer(document: Mapping[str, Any], key: str, default: int) -> int:
    """A positive integer of the document, or the default.

    Raises:
        ConfigError: another value.
    """
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"config.json has {key} = {value!r}, expected a positive integer.")
    return value


def number(document: Mapping[str, Any], key: str, default: float) -> float:
    """A number between 0 and 1 of the document, or the default.

    Raises:
        ConfigError: another value.
    """
    value = document.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigError(f"config.json has {key} = {value!r}, expected a number between 0 and 1.")
    return float(value)


def square(document: Mapping[str, Any], key: str, default: int) -> int:
    """The side of a square given as one number or as a list of equal ones.

    Raises:
        ConfigError: another value.
    """
    value = document.get(key, default)
    if isinstance(value, list | tuple):
        if len(value) not in (1, 2) or value[0] != value[-1]:
            raise ConfigError(f"config.json has {key} = {value!r}; only squares are implemented.")
        value = value[0]
    return integer({key: value}, key, default)
