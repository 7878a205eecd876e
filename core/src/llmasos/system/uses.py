"""What uses a stored model."""

from __future__ import annotations

from llmasos_config import Config
from llmasos_config.aliases import Aliases
from llmasos_config.models import DEFAULT_MODEL
from llmasos_model_store.store import StoredModel
from llmasos_options.words import dotted


def used_by(model: StoredModel, aliases: Aliases, config: Config) -> tuple[str, ...]:
    """The aliases and the models of a config that lead to an entry of the store: ``alias smollm2``, ``config models.big``."""
    named = tuple(f"alias {name}" for name in aliases.names_for(model.key))
    tables = tuple(
        f"config {'model' if name == DEFAULT_MODEL else dotted('models', name)}"
        for name, configured in config.models.items()
        if aliases.expand(configured.source).reference == model.key
    )
    return named + tables
