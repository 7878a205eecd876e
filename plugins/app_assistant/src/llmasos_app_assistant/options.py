"""The options of the task ``assist``."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from llmasos_app_assistant.bounds import Bounds
from llmasos_app_assistant.policy import Rule


@attrs.frozen(kw_only=True)
class McpOptions:
    """A server of the Model Context Protocol: a command that is started, or an address."""

    command: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Command and arguments of a server that speaks over stdio."})
    env: Mapping[str, str] = attrs.field(factory=dict, metadata={"help": "Further environment variables of the command."})
    pass_env: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "Environment variables that the command gets from here; else it gets PATH, HOME and the like alone."}
    )
    url: str = attrs.field(default="", metadata={"help": "Address of a server that speaks streamable HTTP."})
    headers: Mapping[str, str] = attrs.field(
        factory=dict, metadata={"help": "Headers of its requests; a value env:NAME is that of an environment variable."}
    )
    tools: tuple[str, ...] = attrs.field(default=("*",), metadata={"help": "Patterns of the server's tools that are offered."})
    repeatable: tuple[str, ...] = attrs.field(
        default=(),
        metadata={"help": "Patterns of those that are safe to run again after a kill; what the server says of them does not count."},
    )
    connect_seconds: float = attrs.field(
        default=30.0, validator=attrs.validators.gt(0.0), metadata={"help": "Seconds in which the server has to be ready."}
    )

    def __attrs_post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ValueError("give command, for a server that is started here, or url, for one that runs, and not both")


@attrs.frozen(kw_only=True)
class OpenApiOptions:
    """An API that an OpenAPI document (3.0 or 3.1) describes."""

    document: str = attrs.field(metadata={"help": "File or address of the document, in JSON, or in YAML where PyYAML is installed."})
    base_url: str = attrs.field(
        default="", metadata={"help": "Where the API is; left out: what the document says, which must then be where it came from."}
    )
    headers: Mapping[str, str] = attrs.field(
        factory=dict, metadata={"help": "Headers of requests; a value env:NAME is that of an environment variable."}
    )
    operations: tuple[str, ...] = attrs.field(default=("*",), metadata={"help": "Patterns of the operations' ids that are offered."})
    repeatable: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "Patterns of operations that are safe to run again after a kill, beside those with GET and HEAD."}
    )


@attrs.frozen(kw_only=True)
class Options:
    """Which tools there are, and what happens with their calls. Every tool is off until it is named here."""

    functions: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Python functions as tools, each module:name."})
    tasks: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Installed tasks as tools, by name."})
    mcp: Mapping[str, McpOptions] = attrs.field(factory=dict, metadata={"help": "Servers of the Model Context Protocol, by a name."})
    openapi: Mapping[str, OpenApiOptions] = attrs.field(factory=dict, metadata={"help": "APIs, by a name."})
    files: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Folders whose files the model may list and read."})
    documents: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Files and folders of text that the model may search."})
    calculator: bool = attrs.field(default=False, metadata={"help": "Let the model calculate."})
    clock: bool = attrs.field(default=False, metadata={"help": "Let the model ask what time it is."})
    recall: bool = attrs.field(
        default=False,
        metadata={"help": "Let the model search all conversations that are kept here; for one user, not for the clients of a server."},
    )
    embedding_model: str | None = attrs.field(
        default=None,
        metadata={"help": "A model of the config by name that embeds texts: documents and conversations are then found by meaning, too."},
    )
    passage_tokens: int = attrs.field(
        default=160, validator=attrs.validators.ge(16), metadata={"help": "Documents are cut into passages of at most this many tokens."}
    )
    policy: tuple[Rule, ...] = attrs.field(
        default=(), metadata={"help": "Rules for calls; the first that matches counts. Without one the tool's own default holds."}
    )
    bounds: Bounds = attrs.field(factory=Bounds, metadata={"help": "What one turn may take."})
    system: str = attrs.field(default="", metadata={"help": "Instructions for the assistant, where a conversation has none of its own."})
    folder: str = attrs.field(default="", metadata={"help": "Folder of the kept conversations; empty: the user's data folder."})
