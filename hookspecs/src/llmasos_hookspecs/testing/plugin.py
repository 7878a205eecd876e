"""Conformance tests of plugin modules of every kind."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs
import pytest

from llmasos_hookspecs import specs
from llmasos_hookspecs.apart import ApartLimits
from llmasos_hookspecs.component import API_VERSION, Component
from llmasos_hookspecs.errors import LLMasOSError
from llmasos_hookspecs.kinds import KINDS
from llmasos_hookspecs.testing.apart import run_child
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.standard import StandardTests

#: Packages too heavy for the light import; those that ``Component.frameworks`` names come on top.
HEAVY = frozenset(
    {
        *("torch", "torchao", "torchvision", "tensorflow", "tensorflow_text", "keras", "keras_hub", "jax", "jaxlib", "ml_dtypes"),
        *("onnx", "onnxruntime", "openvino", "transformers", "tokenizers", "safetensors", "huggingface_hub", "datasets", "gguf"),
        *("scipy", "sklearn", "pandas", "matplotlib", "sympy", "llguidance", "ray"),
        *("fastapi", "uvicorn", "starlette", "requests", "httpx", "aiohttp"),
    }
)


#: What ``found_once`` has found.
_found: Final[dict[type, Sequence[str]]] = {}


def found_once(tests: type, find: Callable[[], Sequence[str]]) -> Sequence[str]:
    """The cases of a class of tests. pytest asks for them at each test, and to find them a loader is asked about each of the kit's."""
    if tests not in _found:
        _found[tests] = find()
    return _found[tests]


@functools.cache
def _imported_with(name: str, _path: tuple[str, ...], _version: object) -> frozenset[str]:
    """The modules that there are once a plugin's module alone was imported and described itself: the same for each class that proves it."""
    try:
        return frozenset(run_child("llmasos_hookspecs.testing.apart:imported_with", [name], ApartLimits(seconds=120)))
    except LLMasOSError as error:
        pytest.fail(f"{name} cannot be imported alone: {error}", pytrace=False)


class PluginConformance(StandardTests, standard=True):
    """Tests for a plugin module of any kind; subclass the class of your kind instead.

    Attributes:
        module: import name of the plugin module; or
        entry: name of its entry point, for a plugin that is installed.
        options: values for the component's options, as config would give them.
    """

    kind: ClassVar[str]
    module: ClassVar[str] = ""
    entry: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls) -> PluginSandbox:
        """The plugin, registered alone."""
        return cls.load_plugin()

    @pytest.fixture
    def context(self, tmp_path: Path) -> SandboxContext:
        """The context that hooks get."""
        return SandboxContext(root=tmp_path)

    @classmethod
    def load_plugin(cls) -> PluginSandbox:
        """The plugin that ``module`` or ``entry`` names."""
        if bool(cls.module) == bool(cls.entry):
            pytest.fail(f'{cls.__name__} must set either module = "import.name" or entry = "entry point name".', pytrace=False)
        return PluginSandbox(cls.module) if cls.module else PluginSandbox.of_entry(cls.kind, cls.entry)

    @classmethod
    def plugin_options(cls, sandbox: PluginSandbox) -> Any:
        """The component's options with this class's values."""
        return sandbox.options(**cls.options)

    def test_component_describes_itself(self, sandbox: PluginSandbox) -> None:
        """``llmasos_component`` gives a summary, options and the version of the contract, and the same each time."""
        component = sandbox.component
        assert component.summary.strip(), "The summary is empty; say in one sentence what the component does."
        assert "\n" not in component.summary, "The summary has several lines; make it one sentence."
        assert component.api == API_VERSION
        assert attrs.has(component.options), f"{component.options!r} is not an attrs class."
        again: Component = sandbox.call("llmasos_component")
        assert (again.summary, again.options) == (component.summary, component.options)

    def test_the_kind_has_its_hook(self, sandbox: PluginSandbox) -> None:
        """The module implements the hook of its kind, or at least one where the kind has several."""
        hooks = KINDS[self.kind].hooks
        assert any(sandbox.has(hook) for hook in hooks), f"Implement {' or '.join(hooks)}."

    def test_hooks_name_their_parameters_as_specified(self, sandbox: PluginSandbox) -> None:
        """Hooks exist, take parameters of their specification only, and none with a default, which pluggy would never fill."""
        for name, function in sandbox.implementations().items():
            specified = getattr(specs, name, None)
            assert specified is not None, f"{name} is no hook of LLMasOS."
            allowed = set(inspect.signature(specified).parameters)
            for parameter in inspect.signature(function).parameters.values():
                assert parameter.name in allowed, f"{name} takes {parameter.name!r}; it may take {', '.join(sorted(allowed))}."
                assert parameter.default is parameter.empty, f"{name} gives {parameter.name!r} a default, which pluggy never fills."

    def test_options_have_defaults_types_and_round_trip(self, sandbox: PluginSandbox) -> None:
        """Options have defaults for all fields, survive a round trip through JSON, and each field has a type that resolves."""
        cls = sandbox.component.options
        hints = typing.get_type_hints(cls)
        for instance in (cls(), self.plugin_options(sandbox)):
            plain = json.loads(json.dumps(attrs.asdict(instance)))
            for field in attrs.fields(cls):
                assert field.name in hints, f"Options.{field.name} has no type."
                choices = field.metadata.get("choices")
                value = getattr(instance, field.name)
                assert choices is None or value in choices, f"Options.{field.name} is {value!r}, which is none of its own choices."
                if isinstance(value, tuple):  # JSON and TOML know lists only
                    plain[field.name] = tuple(plain[field.name])
            if not any(attrs.has(type(getattr(instance, field.name))) for field in attrs.fields(cls)):
                assert cls(**{f.alias: plain[f.name] for f in attrs.fields(cls)}) == instance

    def test_import_is_light(self, sandbox: PluginSandbox) -> None:
        """Importing the module and calling ``llmasos_component`` imports no framework, and nothing of core."""
        name = sandbox.module.__name__
        file = sandbox.module.__file__
        loaded = {module.partition(".")[0] for module in _imported_with(name, tuple(sys.path), file and os.stat(file).st_mtime_ns)}
        heavy = sorted(loaded & (HEAVY | set(sandbox.component.frameworks)))
        assert not heavy, f"Importing {name} imports {', '.join(heavy)}; import them inside the hook that needs them."
        core = "llmasos" in loaded and not name.startswith("llmasos.")  # core's own sources live in core
        assert not core, f"{name} imports llmasos; a plugin may import llmasos_hookspecs only."
