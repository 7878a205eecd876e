"""Keys and tokens: the patterns of `detect-secrets`, and of services that it does not know."""

from __future__ import annotations

import functools
import re
from typing import Final

#: Its detectors whose tokens hold no space; those that guess by entropy or by names of variables find too much in prose.
_DETECTORS: Final = (
    *("aws.AWSKeyDetector", "azure_storage_key.AzureStorageKeyDetector", "discord.DiscordBotTokenDetector"),
    *("github_token.GitHubTokenDetector", "gitlab_token.GitLabTokenDetector", "jwt.JwtTokenDetector", "openai.OpenAIDetector"),
    *("pypi_token.PypiTokenDetector", "sendgrid.SendGridDetector", "slack.SlackDetector", "square_oauth.SquareOAuthDetector"),
    *("stripe.StripeDetector", "telegram_token.TelegramBotTokenDetector", "twilio.TwilioKeyDetector"),
)
_OWN: Final = (
    r"sk-(?:[a-z0-9]{2,12}-)*[A-Za-z0-9_]{20}",
    r"(?:hf|npm)_[A-Za-z0-9]{30}",
    r"github_pat_\w{22}",
    r"AIza[\w-]{35}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{50}",
)
_REST: Final = re.compile(r"[A-Za-z0-9_\-.+/=]*+")


@functools.cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """What tokens look like; nothing of detect-secrets that reads files or asks services is used."""
    import importlib

    found: list[re.Pattern[str]] = [re.compile(each) for each in _OWN]
    for each in _DETECTORS:
        module, _, name = each.partition(".")
        found.extend(getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).denylist)
    return tuple(found)


def secret(text: str, place: int, stop: int) -> int:
    """Where the token ends that begins at ``place``, with everything that may belong to it, or -1."""
    if stop - place < 20:
        return -1
    ends = [found.end() for pattern in patterns() if (found := pattern.match(text, place, stop)) is not None]
    if not ends:
        return -1
    rest = _REST.match(text, max(ends), stop)
    end = max(ends) if rest is None else rest.end()
    while end > max(ends) and text[end - 1] in ".-/":
        end -= 1
    return end
