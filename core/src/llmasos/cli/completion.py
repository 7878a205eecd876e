"""The names that the shell completes; see ``llmasos_command_kit.completion``."""

from __future__ import annotations

from collections.abc import Iterable


class KnownNames:
    """Implements ``llmasos_command_kit.completion.Names``: what is installed, aliases, presets, and what is in the store."""

    def names(self, kind: str) -> Iterable[str]:
        if kind == "model":
            from llmasos_config.aliases import Aliases
            from llmasos_config.presets import Presets
            from llmasos_model_store.store import Store

            return [*Aliases().all(), *Presets().names(), *(model.key for model in Store().models())]
        from llmasos.system.discovery import registry

        return [entry.name for entry in registry().entries(kind)]
