"""The options of the accelerator ``merge``."""

from __future__ import annotations

import math
from pathlib import Path

import attrs

from llmasos_hookspecs import ConfigError


@attrs.frozen(kw_only=True)
class Options:
    """Which adapter is merged, and how much of it."""

    adapter: str = attrs.field(default="", metadata={"help": "Folder of a LoRA adapter in PEFT's form, made for this model."})
    scale: float = attrs.field(default=1.0, metadata={"help": "What its changes are multiplied with."})
    digest: str = attrs.field(default="", metadata={"help": "SHA-256 that the adapter must have; left out: what its files have now."})

    def __attrs_post_init__(self) -> None:
        # In the options, so that the cached result of another adapter in the same folder is not taken for this one's.
        if not math.isfinite(self.scale):
            raise ConfigError("scale must be a finite number.", "scale")
        if not self.adapter:
            return
        from llmasos_huggingface_folder.adapters import digest_of  # here, because describing the component needs no library

        found = digest_of(self.folder)
        if self.digest not in ("", found):
            raise ConfigError(f"{self.folder} has the SHA-256 {found}, and {self.digest} was asked for; get the adapter again.", "digest")
        object.__setattr__(self, "digest", found)

    @property
    def folder(self) -> Path:
        return Path(self.adapter).expanduser()
