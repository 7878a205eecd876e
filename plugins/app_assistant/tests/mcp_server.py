"""A server of the Model Context Protocol with a few tools: ``python mcp_server.py`` speaks over stdio."""

import os
import sys
from typing import Annotated

if __name__ == "__main__" and "--broken" in sys.argv:
    sys.exit("no fruit today")

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

server = MCPServer("shop")
sold: list[str] = []


@server.tool()
def price(fruit: Annotated[str, Field(description="Which fruit.")], kilos: int = 1) -> str:
    """What fruit costs."""
    if fruit != "apple":
        raise ToolError(f"there is no {fruit}")
    return f"{3 * kilos} euros"


@server.tool()
def sell(fruit: str) -> dict[str, int]:
    """Sell fruit."""
    sold.append(fruit)
    return {"sold": len(sold)}


@server.tool()
async def wait() -> str:
    """Wait for ever."""
    await anyio.sleep(3600)
    return "at last"


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(7)


@server.tool()
def secret() -> str:
    """What the server sees of its environment."""
    return f"{os.environ.get('GIVEN')} {os.environ.get('PASSED')} {os.environ.get('HIDDEN')}"


if __name__ == "__main__":
    server.run("stdio")
