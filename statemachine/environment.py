"""Secrets that the environment of this process gives: by value, or by the name of a file that holds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from conventions.errors import ConfigError


def value_or_file(environ: Mapping[str, str], name: str, advice: str = "") -> str:
    """The value of a variable, or the content of the file that NAME_FILE names; "" where neither is set.

    Raises
    ------
    ConfigError
        When both are set, or the file cannot be read or is empty; `advice` says then how to make one.
    """
    value, file = environ.get(name, "").strip(), environ.get(f"{name}_FILE", "")
    if value and file:
        raise ConfigError(f"{name} and {name}_FILE are both set: keep one of them")
    if not file:
        return value
    try:
        value = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}_FILE: {file} cannot be read: {getattr(error, 'strerror', '') or 'no text'}"
        ) from None
    if not value:
        raise ConfigError(f"{name}_FILE: {file} is empty{advice}")
    return value
