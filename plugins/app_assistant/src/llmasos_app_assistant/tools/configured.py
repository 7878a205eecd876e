"""The tools that options name."""

from __future__ import annotations

from collections.abc import Sequence

from llmasos_app_assistant.memory.recall import Recall, recall_tool
from llmasos_app_assistant.memory.vectors import VectorStore
from llmasos_app_assistant.options import Options
from llmasos_app_assistant.tools.calculator import calculator_tool
from llmasos_app_assistant.tools.clock import clock_tool
from llmasos_app_assistant.tools.documents import Documents, document_tool
from llmasos_app_assistant.tools.files import Folders, file_tools
from llmasos_app_assistant.tools.functions import function_named
from llmasos_app_assistant.tools.tasks import task_tool
from llmasos_app_assistant.tools.tool import Tool, ToolSource
from llmasos_hookspecs import Context


def configured_tools(options: Options, context: Context, recall: Recall, vectors: VectorStore) -> list[Tool]:
    """Those that are known now. Raises ``ConfigError`` or ``PluginError`` where one cannot be made."""
    found: list[Tool] = []
    if options.calculator:
        found.append(calculator_tool())
    if options.clock:
        found.append(clock_tool())
    if options.files:
        found += file_tools(Folders(options.files))
    if options.documents:
        found.append(document_tool(Documents(options.documents, options.passage_tokens, vectors, options.embedding_model)))
    if options.recall:
        found.append(recall_tool(recall))
    found += [function_named(path) for path in options.functions]
    found += [task_tool(name, context) for name in options.tasks]
    return found


def configured_sources(options: Options, *, offline: bool) -> Sequence[ToolSource]:
    """Where others come from. Raises ``ConfigError`` where one needs the network, and ``offline`` forbids it."""
    sources: list[ToolSource] = []
    if options.mcp:
        from llmasos_app_assistant.tools.mcp import McpTools

        sources += [McpTools(name, each, offline=offline) for name, each in options.mcp.items()]
    if options.openapi:
        from llmasos_app_assistant.tools.openapi import OpenApiTools

        sources += [OpenApiTools(name, each, offline=offline) for name, each in options.openapi.items()]
    return sources
