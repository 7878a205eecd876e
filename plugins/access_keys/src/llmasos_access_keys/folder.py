"""The folder of the keys: where it is, and that nobody else can read it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Final

from llmasos_hookspecs import ConfigError

#: Bytes of the pepper.
_PEPPER_BYTES: Final = 32


def default_folder() -> Path:
    """``access`` in the user's data folder, which core calls ``data``."""
    home = os.environ.get("LLMASOS_HOME")
    if home:
        return Path(home).expanduser().absolute() / "data" / "access"
    from platformdirs import user_data_path

    return user_data_path("llmasos", appauthor=False) / "access"


def private_folder(path: Path) -> None:
    """Have a folder that only its owner can enter.

    Raises:
        ConfigError: it cannot be made, or others may enter it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder of keys {path} cannot be made ({error.strerror}); name another one.") from error
    _check_private(path, "700")


def private_file(path: Path) -> Path:
    """Have a file that only its owner can read; an empty one where there was none. Raises ``ConfigError``."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror}); make its folder writable.") from error
    _check_private(path, "600")
    return path


def read_pepper(path: Path, *, make: bool) -> bytes:
    """The secret that goes into each key's digest; made once, where ``make`` allows it.

    Raises:
        ConfigError: it is not there, damaged, or can be read by others.
    """
    if make and not path.exists():
        _write_once(path, secrets.token_bytes(_PEPPER_BYTES).hex().encode())
    try:
        pepper = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The pepper {path} cannot be read ({error}); without it no key can be checked, so restore it.") from error
    if len(pepper) != _PEPPER_BYTES:
        raise ConfigError(f"The pepper {path} has {len(pepper)} bytes, and it must have {_PEPPER_BYTES}; restore it.")
    _check_private(path, "600")
    return pepper


def _write_once(path: Path, content: bytes) -> None:
    """Write a whole file; of several processes at once the first one's content stays."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".pepper-")  # with the mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)


def _check_private(path: Path, mode: str) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"Others than its owner may use {path}, which protects the keys; run `chmod {mode}` on it.")
