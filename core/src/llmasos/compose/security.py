"""What config requires of a model's files before anything is loaded from them."""

from __future__ import annotations

from llmasos_config import SecurityConfig
from llmasos_hookspecs import Checkpoint, CheckpointError, ConfigError, is_sealed


def check_security(checkpoint: Checkpoint, security: SecurityConfig) -> None:
    """Hold a model against the ``[security]`` table.

    Raises:
        CheckpointError: it is not encrypted, or not signed by a key that is trusted.
        ConfigError: signatures are required, and no key is trusted.
    """
    signer: str | None = getattr(checkpoint, "signer", None)
    if security.require == "signed" and not security.trusted:
        raise ConfigError(
            'security.require is "signed", and security.trusted names no key; add the public keys of those whose models may run.',
            "security.trusted",
        )
    if security.require == "sealed" and not is_sealed(checkpoint):
        raise CheckpointError(f'{checkpoint.path} is not sealed, and security.require is "sealed"; seal the model, or take another.')
    if signer not in security.trusted and (security.require == "signed" or (security.trusted and is_sealed(checkpoint))):
        found = "holds no signature" if signer is None else f"is signed by {signer}"
        raise CheckpointError(
            f"{checkpoint.path} {found}, and security.trusted names other keys; do not use it unless you trust its origin."
        )
