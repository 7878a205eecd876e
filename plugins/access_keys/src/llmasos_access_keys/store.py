"""The store: keys, quotas and the audit log of one folder."""

from __future__ import annotations

from pathlib import Path

import attrs
from filelock import FileLock

from llmasos_access_keys.audit import AuditLog
from llmasos_access_keys.database import Database
from llmasos_access_keys.folder import default_folder, private_file, private_folder, read_pepper
from llmasos_access_keys.keys import KeyRing
from llmasos_hookspecs import ConfigError


@attrs.frozen
class Store:
    """What lies in one folder."""

    folder: Path
    database: Database
    keys: KeyRing
    log: AuditLog


def open_store(folder: str | Path = "", *, make: bool = True) -> Store:
    """Open the store of a folder; empty: the default one.

    Raises:
        ConfigError: ``make`` is false and it is not there, it cannot be made, its files can be read by others, or the pepper is missing.
        LLMasOSError: the database is damaged.
    """
    place = Path(folder).expanduser().absolute() if str(folder) else default_folder()
    path, lock = place / "keys.sqlite3", place / "lock"
    if not make and not path.is_file():
        raise ConfigError(f"There are no keys in {place}; make one with `llmasos keys create`, or name the right folder with --folder.")
    private_folder(place)
    with FileLock(lock, mode=0o600):  # of several processes at once, one makes the files
        # A database without its pepper must not get another one: none of its keys would be known.
        pepper = read_pepper(place / "pepper", make=not path.exists())
        database = Database(private_file(path))
        log = AuditLog(database, private_file(place / "audit.heads"), lock)
    return Store(place, database, KeyRing(database, pepper), log)
