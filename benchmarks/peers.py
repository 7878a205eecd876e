"""The settings that peers run with, kept in ``peers.toml`` beside this file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers.toml")


def peers() -> list[str]:
    """The modules of the peers' drivers."""
    return list(tomllib.loads(PEERS.read_text(encoding="utf-8")))


def peer_settings(module: str) -> dict[str, Any]:
    """What the driver of an engine is made with besides its file; nothing for our own."""
    found: dict[str, Any] = tomllib.loads(PEERS.read_text(encoding="utf-8")).get(module, {}).get("settings", {})
    return found
