"""Reads config as TOML gives it: tables, presets and what models share, with every problem in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import attrs

from llmasos_config.catalog import default_component, reference_forms
from llmasos_config.components import (
    DEFAULT_ACCESS,
    DEFAULT_LOADER,
    DEFAULT_PLACEMENT,
    DEFAULT_SCHEDULER,
    REACHED,
)
from llmasos_config.models import DEFAULT_MODEL, ModelConfig
from llmasos_config.presets import Preset, Presets, laid_over
from llmasos_config.tables import GlobalTable, ModelTable, ResourcesConfig, SecurityConfig
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.nearest import did_you_mean, nearest
from llmasos_options import find_problems, structure_options
from llmasos_options.component import ComponentConfig
from llmasos_options.words import dotted, found_in_words, value_in_words

T = TypeVar("T")

_TABLES: Final = (
    *("model", "accelerate", "loader", "scheduler", "placement", "resources", "tasks", "observers", "guard", "server", "access"),
    *("sources", "formats", "suites", "security", "models", *REACHED),
)
_COMPOSED: Final = ("loader", "accelerate", "scheduler", "placement")


class ConfigReader:
    """Reads a mapping and collects every problem on the way."""

    def __init__(self, mapping: Mapping[str, Any], presets: Presets) -> None:
        self.mapping = mapping
        self.presets = presets
        self.problems: list[ConfigError] = []
        #: As ``Config.origins``: of the values that come from presets.
        self.origins: dict[str, str] = {}

    def read(self, origins: Mapping[str, str]) -> dict[str, Any]:
        """The attributes of ``Config``; ``origins`` where their values were set."""
        plain = {key: value for key, value in self.mapping.items() if key not in _TABLES}
        own = self._section(GlobalTable, plain, "", also=_TABLES)
        resources = self._section(ResourcesConfig, self._table("resources"), "resources")
        security = self._section(SecurityConfig, self._table("security"), "security")
        return {
            "models": self._models(),
            "tasks": self._named("tasks"),
            "sources": self._named("sources"),
            "formats": self._named("formats"),
            "suites": self._components(self.mapping.get("suites", ()), "suites"),
            "reached": {
                kind: self._component(self.mapping[kind], kind, default_component(kind)) for kind in REACHED if kind in self.mapping
            },
            "observers": self._components(self.mapping.get("observers", ()), "observers"),
            "guards": self._components(self.mapping.get("guard", ()), "guard"),
            "servers": self._components(self.mapping.get("server", ()), "server"),
            "access": self._component(self.mapping.get("access", {}), "access", DEFAULT_ACCESS),
            "resources": resources,
            "security": security,
            "seed": own.seed,
            "offline": own.offline,
            "origins": {**self.origins, **origins},
        }

    def _models(self) -> dict[str, ModelConfig]:
        named, model = self._table("models"), self._table("model")
        # Whatever a model's own table leaves out is what the top level says; [model]'s source and preset excepted, which are one model's.
        shared = {key: self.mapping[key] for key in _COMPOSED if key in self.mapping}
        inherited = {key: item for key, item in model.items() if key not in ("source", "preset")}
        found = {}
        if not named or "source" in model or "preset" in model:
            found[DEFAULT_MODEL] = self._model(DEFAULT_MODEL, model, shared, {}, "model")
        else:
            self._section(ModelTable, model, "model")
        for name, value in named.items():
            path = dotted("models", name)
            if not isinstance(value, Mapping):
                self._refuse(path, f"{path} is {found_in_words(value)}, and it must be a table.")
                continue
            if name in found:
                self._refuse(path, f'{path} is the name of the [model] table\'s own model; give it another name than "{name}".')
                continue
            if "source" not in value and "preset" not in value:
                self._refuse(f"{path}.source", f"{path}.source must be set, to a model: an alias, a path, {reference_forms()}.")
            own = {key: item for key, item in value.items() if key not in _COMPOSED}
            composed = {key: item for key, item in value.items() if key in _COMPOSED}
            found[name] = self._model(name, own, composed, {**shared, "model": inherited}, path)
        self._check_adapters(found)
        return found

    def _check_adapters(self, models: Mapping[str, ModelConfig]) -> None:
        """Adapters are served as models, so no two things may have one name."""
        taken = dict.fromkeys(models, "a model")
        for name, model in models.items():
            for adapter in model.adapters:
                path = dotted(dotted("model" if name == DEFAULT_MODEL else dotted("models", name), "adapters"), adapter)
                if not adapter or adapter in taken:
                    self._refuse(
                        path, f"{path}: {value_in_words(adapter)} names {taken.get(adapter, 'nothing')} already; give another name."
                    )
                taken[adapter] = f"an adapter of the model {name}"

    def _model(self, name: str, own: Mapping[str, Any], composed: Mapping[str, Any], shared: Mapping[str, Any], path: str) -> ModelConfig:
        """A model. What its tables ``own`` and ``composed`` say holds, then what its preset says, then what all models share."""
        chain = self._presets_of(own, path)
        preset: dict[str, Any] = {}
        for each in reversed(chain):
            preset = laid_over(preset, each.tables)
        if chain and "source" in (first := chain[-1].tables.get("model", {})):
            preset["model"] = {**preset["model"], "source": first["source"]}
        if chain and not own.get("preset"):
            own = {key: item for key, item in own.items() if key != "source"}
        of_preset = preset.get("model", {})
        also = _COMPOSED if path != "model" else ()
        table = self._section(ModelTable, laid_over({**shared.get("model", {}), **of_preset}, own), path, also=also)

        def place(key: str) -> tuple[Any, str]:
            """Value and path of a component, or of the stages."""
            if key in composed or key in preset:
                value = laid_over(preset.get(key), composed[key]) if key in composed else preset[key]
                return value, key if path == "model" else f"{path}.{key}"
            return shared.get(key, () if key == "accelerate" else {}), key

        for key, value in {**{f"{path}.{key}": value for key, value in of_preset.items()}, **preset}.items():
            if key != "model":
                self.origins |= dict.fromkeys(_leaves(value, place(key)[1] if key in _COMPOSED else key), str(chain[0].path))
        return ModelConfig(
            name=name,
            source=table.source,
            preset=chain[0].name if chain else "",
            system=table.system,
            messages=table.messages,
            sampling=table.sampling,
            chat_template=table.chat_template,
            adapters=table.adapters,
            context_length=table.context_length,
            allow_pickle=table.allow_pickle,
            replicas=table.replicas if isinstance(table.replicas, int) else table.replicas.max,
            elastic=None if isinstance(table.replicas, int) else table.replicas,
            loader=self._component(*place("loader"), DEFAULT_LOADER),
            accelerate=self._components(*place("accelerate")),
            scheduler=self._component(*place("scheduler"), DEFAULT_SCHEDULER),
            placement=self._component(*place("placement"), DEFAULT_PLACEMENT),
        )

    def _presets_of(self, own: Mapping[str, Any], path: str) -> tuple[Preset, ...]:
        """The presets that a model's table names, the one that it names first."""
        named, where = (own["preset"], f"{path}.preset") if own.get("preset") else (own.get("source"), f"{path}.source")
        if not isinstance(named, str):
            return ()
        try:
            chain = tuple(self.presets.chain(named))
        except ConfigError as error:
            self._refuse(where, str(error))
            return ()
        if not chain and own.get("preset"):
            known = self.presets.names()
            self._refuse(where, f'{where} is "{named}", and there is no such preset{did_you_mean(named, known)}')
        return chain

    def _section(self, cls: type[T], value: Mapping[str, Any], path: str, also: tuple[str, ...] = ()) -> T:
        found = find_problems(cls, value, path, also=also)
        self.problems.extend(found)
        own = {key: item for key, item in value.items() if key not in also}
        return structure_options(cls, {} if found else own, path)

    def _table(self, key: str) -> Mapping[str, Any]:
        value = self.mapping.get(key, {})
        if isinstance(value, Mapping):
            return value
        self._refuse(key, f"{key} is {found_in_words(value)}, and it must be a table.")
        return {}

    def _named(self, key: str) -> dict[str, ComponentConfig]:
        """A table of components, each named as its ``use`` unless it says otherwise."""
        return {name: self._component(value, dotted(key, name), name) for name, value in self._table(key).items()}

    def _components(self, value: Any, path: str) -> tuple[ComponentConfig, ...]:
        if not isinstance(value, list | tuple):
            self._refuse(path, f"{path} is {found_in_words(value)}, and it must be an array of tables, each begun with [[{path}]].")
            return ()
        return tuple(self._component(each, f"{path}[{i}]", None) for i, each in enumerate(value))

    def _component(self, value: Any, path: str, default: str | None) -> ComponentConfig:
        if isinstance(value, ComponentConfig):
            return attrs.evolve(value, path=path)
        if isinstance(value, str):
            value = {"use": value}
        if not isinstance(value, Mapping):
            self._refuse(path, f"{path} is {found_in_words(value)}, and it must be a name, or a table with the key use.")
            return ComponentConfig(default or "", {}, path)
        use = value.get("use", default)
        if not isinstance(use, str) or not use:
            close = None if "use" in value else nearest("use", map(str, value))
            hint = f"; did you mean it by {value_in_words(close)}?" if close else "."
            known = (
                "must be set, to the name of an installed component" if use is None else f"is {found_in_words(use)}, and it must be a name"
            )
            self._refuse(f"{path}.use", f"{path}.use {known}{hint}")
            use = default or ""
        options = {str(key): item for key, item in value.items() if key != "use"}
        tune = options.pop("tune", False) if use == default == DEFAULT_LOADER else False
        if not isinstance(tune, bool):
            self._refuse(f"{path}.tune", f"{path}.tune is {found_in_words(tune)}, and it must be true or false.")
        return ComponentConfig(use, options, path, tune is True)

    def _refuse(self, path: str, sentence: str) -> None:
        self.problems.append(ConfigError(sentence, path))


def _leaves(value: Any, path: str) -> Iterator[str]:
    """Dotted paths of all values below one, itself where there are none."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, dotted(path, key))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{path}[{place}]")
    else:
        yield path
