"""The clock."""

from __future__ import annotations

import zoneinfo
from datetime import datetime

from llmasos_app_assistant.tools.functions import tool
from llmasos_app_assistant.tools.tool import Tool, ToolError


def clock_tool() -> Tool:
    """The tool ``clock``."""

    @tool(repeatable=True)
    def clock(timezone: str = "") -> str:
        """The date and the time now.

        Args:
            timezone: of which place, such as Europe/Berlin or UTC; empty: of the user.
        """
        try:
            now = datetime.now(zoneinfo.ZoneInfo(timezone)) if timezone else datetime.now().astimezone()
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ToolError(f"There is no time zone {timezone!r}; name one as Europe/Berlin.") from error
        return f"{now:%A}, {now.isoformat(timespec='seconds')}"

    return clock
