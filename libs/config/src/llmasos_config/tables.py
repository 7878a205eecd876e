"""The tables of config whose keys are the system's own: their types, defaults and bounds, and the help of each."""

from __future__ import annotations

from typing import Any, Final

import attrs

from llmasos_config.catalog import reference_forms
from llmasos_config.components import DEFAULT_SOURCE
from llmasos_hookspecs.sizes import parse_size
from llmasos_plugin_calls.bounded import FETCH_SECONDS, LOAD_SECONDS, STAGE_SECONDS
from llmasos_replicas.replica_range import ReplicaRange, count_of_replicas

#: Threads of one process, and tokens of one sequence, beyond what any system starts or any model reads.
MAX_THREADS: Final = 4096
MAX_CONTEXT: Final = 2**31 - 1


@attrs.frozen(kw_only=True)
class ModelTable:
    """The keys of ``[model]`` that are core's own."""

    source: str = attrs.field(
        default=DEFAULT_SOURCE,
        validator=attrs.validators.min_len(1),
        metadata={"help": f"The model: an alias, a folder, a file, {reference_forms()}."},
    )
    preset: str = attrs.field(
        default="", metadata={"help": "A preset (llmasos models create) whose values hold where this config sets none of its own."}
    )
    system: str = attrs.field(default="", metadata={"help": "System message of chats that have none of their own."})
    messages: tuple[dict[str, str], ...] = attrs.field(
        default=(), metadata={"help": "Messages (role, content) that stand before those of every chat, as examples for the model."}
    )
    sampling: dict[str, Any] = attrs.field(
        factory=dict, metadata={"help": "Options of a generation, such as temperature, where a request gives none of its own."}
    )
    chat_template: str = attrs.field(default="", metadata={"help": "A jinja2 chat template in place of the model's own."})
    adapters: dict[str, str] = attrs.field(
        factory=dict,
        metadata={"help": "LoRA adapters, name to folder (PEFT's form): requests choose one, and each is a model of its name."},
    )
    context_length: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.ge(1), attrs.validators.le(MAX_CONTEXT)]),
        metadata={"help": "Tokens that one sequence can hold; left out: the model's own, as far as memory allows."},
    )
    allow_pickle: bool = attrs.field(default=False, metadata={"help": "Read pickle files too, with weights_only."})
    replicas: int | ReplicaRange = attrs.field(
        default=1,
        validator=count_of_replicas,
        metadata={
            "help": "Processes that serve the model, each with weights of its own; 1: none beside the program's. A table with min and max: "
            "as many as the requests need."
        },
    )


@attrs.frozen(kw_only=True)
class ResourcesConfig:
    """What the pipeline may use."""

    memory: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={"help": 'Bytes for weights and KV of all models together, or a text such as "6GiB"; left out: no bound.'},
    )
    threads: int | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.ge(1), attrs.validators.le(MAX_THREADS)]),
        metadata={"help": "Compute threads; left out: as many as the process may use cores."},
    )
    reserve: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": 'Bytes of the memory that models leave free, for activations and the program itself, or a text such as "256MiB".'
        },
    )
    keep_alive: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.ge(0)),
        metadata={"help": "Seconds after its last use when a model is unloaded; left out: when another one needs its memory."},
    )
    step_timeout: float = attrs.field(
        default=600.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a step that has not ended makes the model lost, and its callers are told; inf: never."},
    )
    load_timeout: float = attrs.field(
        default=LOAD_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds after which a load, or a hook that makes a scheduler or a task, is given up with an error; inf: never."},
    )
    fetch_timeout: float = attrs.field(
        default=FETCH_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds without progress after which a source's fetch is given up with an error; inf: never."},
    )
    stage_timeout: float = attrs.field(
        default=STAGE_SECONDS,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds without progress after which an accelerator stage is given up with an error; inf: never."},
    )
    task_timeout: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.gt(0)),
        metadata={"help": "Seconds after which a task's requests end, and a task that does not return is given up; left out: never."},
    )
    guard_timeout: float = attrs.field(
        default=30.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "Seconds that a guard may take for one text or piece of an answer; then the request fails."},
    )
    max_waiting: int = attrs.field(
        default=256,
        validator=attrs.validators.ge(1),
        metadata={"help": "Requests of servers that may wait for a model that is being loaded, or for memory; others are refused."},
    )
    stage_cache: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": "Bytes of disk for the results of accelerator stages, those used longest ago going first, or a text such as "
            '"20GiB", which is the default.'
        },
    )
    loader_cache: int | None = attrs.field(
        default=None,
        converter=attrs.converters.optional(parse_size),
        metadata={
            "help": "Bytes of disk for what loaders build of models, those used longest ago going first, or a text such as "
            '"20GiB", which is the default.'
        },
    )


#: Keys of ``[resources]`` that are bytes, or a text with a unit.
SIZES: Final = tuple(field.name for field in attrs.fields(ResourcesConfig) if field.converter is not None)


@attrs.frozen(kw_only=True)
class SecurityConfig:
    """What the files of a model must have before it is loaded."""

    require: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.in_(("signed", "sealed"))),
        metadata={
            "help": '"signed": load only models that a trusted key signed; "sealed": only those that are encrypted; left out: any model.'
        },
    )
    trusted: tuple[str, ...] = attrs.field(
        default=(),
        converter=tuple,
        metadata={"help": "Public keys that may sign. Where there are any, a sealed model must be signed by one of them."},
    )


@attrs.frozen(kw_only=True)
class GlobalTable:
    """The keys of config that stand outside of any table."""

    seed: int = attrs.field(
        default=0,
        validator=[attrs.validators.ge(0), attrs.validators.lt(2**63)],
        metadata={"help": "Seed of all that is random."},
    )
    offline: bool = attrs.field(default=False, metadata={"help": "Never use the network."})
