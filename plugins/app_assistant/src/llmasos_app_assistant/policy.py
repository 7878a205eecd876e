"""Which calls are run, which are refused, and which somebody has to confirm."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from llmasos_app_assistant.tools.tool import Decision, Tool

_DECISIONS: Final = ("allow", "ask", "deny")


@attrs.frozen(kw_only=True)
class Rule:
    """A rule for calls. Of several that match the first counts; where none does, the tool's own decision."""

    tool: str = attrs.field(default="*", metadata={"help": "Pattern of the tool's name, with * and ?."})
    arguments: Mapping[str, str] = attrs.field(
        factory=dict,
        metadata={"help": "Pattern of each argument's text (of its JSON, where it is no text); one that the call leaves out matches none."},
    )
    action: str = attrs.field(
        validator=attrs.validators.in_(_DECISIONS),
        metadata={"help": "Run it, have somebody confirm it, or refuse it.", "choices": _DECISIONS},
    )

    def matches(self, tool: str, arguments: Mapping[str, Any]) -> bool:
        """Whether the rule is about a call."""
        return fnmatch.fnmatchcase(tool, self.tool) and all(
            name in arguments and fnmatch.fnmatchcase(_text(arguments[name]), pattern) for name, pattern in self.arguments.items()
        )


def decide(rules: Sequence[Rule], tool: Tool, arguments: Mapping[str, Any]) -> Decision:
    """What happens with a call."""
    for rule in rules:
        if rule.matches(tool.name, arguments):
            return rule.action  # type: ignore[return-value]  # one of _DECISIONS
    return tool.decision


def always_denied(rules: Sequence[Rule], tool: Tool) -> bool:
    """Whether no call of a tool can be run, whatever its arguments: such a tool is not offered."""
    for rule in rules:
        if fnmatch.fnmatchcase(tool.name, rule.tool):
            if rule.action != "deny":
                return False
            if not rule.arguments:
                return True
    return tool.decision == "deny"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
