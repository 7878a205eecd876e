"""Addresses of the network, and what is shown to those who are there."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping
from typing import Final

from llmasos_hookspecs import ConfigError, is_loopback

#: What begins a value that is that of an environment variable.
_FROM_ENVIRONMENT: Final = "env:"


def check_network(url: str, option: str, *, offline: bool) -> None:
    """Raise ``ConfigError`` where an address is none, or where it lies beyond this machine and nothing of the network may be used."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{option} is {url!r}, and it must be an address such as https://tools.example/mcp.", option)
    if offline and not is_loopback(parts.hostname):
        raise ConfigError(f"{option} is {url!r}, and offline = true lets nothing beyond this machine be asked.", option)


def secrets_of(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers whose values ``env:NAME`` are replaced by those of the environment. Raises ``ConfigError`` where a variable is not set."""
    found = {}
    for name, value in headers.items():
        if value.startswith(_FROM_ENVIRONMENT):
            variable = value.removeprefix(_FROM_ENVIRONMENT)
            if variable not in os.environ:
                raise ConfigError(f"The header {name} is that of the environment variable {variable}, which is not set.")
            value = os.environ[variable]
        found[name] = value
    return found
