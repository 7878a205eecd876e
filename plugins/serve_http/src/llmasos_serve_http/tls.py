"""TLS: the certificate and the key that the server shows."""

from __future__ import annotations

import ssl

from llmasos_hookspecs import ConfigError
from llmasos_serve_http.options import Options


def check_files(options: Options) -> None:
    """Raises ``ConfigError`` where only one of the two files is named, or they are no certificate and key that belong together."""
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise ConfigError("TLS needs both tls_certificate and tls_key; name the other file too, or neither.")
    if options.tls_certificate:
        tls_context(options)


def tls_context(options: Options) -> ssl.SSLContext:
    """What connections are made with: TLS 1.2 or newer. Raises ``ConfigError``."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_files(context, options)
    return context


def load_files(context: ssl.SSLContext, options: Options) -> None:
    """Have new connections shown what is in the files now. Raises ``ConfigError``."""
    try:
        context.load_cert_chain(options.tls_certificate, options.tls_key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{options.tls_certificate} and {options.tls_key} are no certificate and key that can be used ({reason}); give PEM files that "
            "belong together."
        ) from error
