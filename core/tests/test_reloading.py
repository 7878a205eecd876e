"""Another config for a pipeline that serves: all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from llmasos.api.pipeline import Pipeline
from llmasos.api.reloading import apply
from llmasos.api.servers import Servers
from llmasos_config import Config
from llmasos_hookspecs import ConfigError, LLMasOSError, PluginError, RequestError
from llmasos_hookspecs.testing.checkpoints import tiny_checkpoint


@attrs.define
class Told:
    """A server that remembers its options, and refuses what it is told to."""

    options: list[Any] = attrs.field(factory=list)
    refuses: bool = False
    endpoints: tuple[Any, ...] = ()

    def reload(self, options: Any) -> None:
        if self.refuses:
            raise ConfigError("No.")
        self.options.append(options)


class Fixed:
    """A server whose options cannot change."""

    endpoints = ()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reloaded") / "tiny"
    tiny_checkpoint(folder=folder)
    return folder


def config_of(tiny: Path, **more: Any) -> Config:
    known = {
        "model": {"source": str(tiny)},
        "models": {"second": {"source": str(tiny)}},
        "loader": {"use": "onnx", "threads": 1},
        "server": [{"use": "http", "port": 0}, {"use": "http", "port": 0}],
    }
    return Config.from_mapping({**known, **more})


@pytest.fixture
def pipeline(tiny: Path) -> Iterator[Pipeline]:
    with Pipeline(config_of(tiny)) as opened:
        yield opened


def test_what_can_change_changes(pipeline: Pipeline, tiny: Path) -> None:
    """Loaded models too; servers are told in any case, because files that their options name may be other ones."""
    servers = [(Told(), "first"), (Told(), "second")]
    pipeline.load()
    assert apply(config_of(tiny), pipeline, servers) == []  # type: ignore[arg-type]  # what of a server is needed
    after = config_of(
        tiny,
        scheduler={"use": "fifo", "max_sequences": 3},
        resources={"memory": "1GiB", "reserve": "1MiB"},
        server=[{"use": "http", "port": 0}, {"use": "http", "port": 0, "temperature": 0.5}],
    )
    changed = ["models.default.scheduler", "models.second.scheduler", "resources.memory", "resources.reserve", "server[1]"]
    assert apply(after, pipeline, servers) == changed
    assert pipeline.hosts["second"].scheduler.options == {"max_sequences": 3}
    assert (pipeline.composer.budget.limit, pipeline.composer.budget.reserve) == (1 << 30, 1 << 20)
    assert [options.temperature for options in servers[1][0].options] == [1.0, 0.5]
    assert apply(after, pipeline, servers) == []
    assert pipeline.model.generate("otters", max_new_tokens=2).tokens


@pytest.mark.parametrize(
    ("more", "error", "sentence"),
    [
        ({"seed": 7, "guard": [], "resources": {"threads": 1, "memory": "1GiB"}}, ConfigError, "seed, resources.threads cannot change"),
        ({"models": {}}, ConfigError, "models.second cannot change"),
        ({"models": {"second": {"source": "elsewhere"}, "third": {"source": "elsewhere"}}}, ConfigError, "models.second, models.third"),
        ({"loader": {"use": "onnx", "threads": 2}}, ConfigError, "models.default, models.second"),
        ({"server": [{"use": "http"}]}, ConfigError, "server cannot change"),
        ({"server": [{"use": "http", "port": 0}, {"use": "http", "port": 0, "temperature": 0.5}]}, ConfigError, r"server\[1\] cannot"),
        ({"scheduler": {"use": "fastest"}}, PluginError, "fastest"),
        ({"scheduler": {"use": "fifo", "max_sequences": 0}}, ConfigError, "max_sequences"),
        ({"server": [{"use": "http", "port": 0, "colour": 1}, {"use": "http", "port": 0}]}, ConfigError, "colour"),
    ],
)
def test_what_cannot_change_changes_nothing(
    pipeline: Pipeline, tiny: Path, more: dict[str, Any], error: type[LLMasOSError], sentence: str
) -> None:
    first, before = Told(), pipeline.config
    with pytest.raises(error, match=sentence):
        apply(config_of(tiny, **more), pipeline, [(first, "first"), (Fixed(), "second")])
    assert first.options == []
    assert pipeline.config is before


def test_where_one_server_refuses_the_others_get_their_options_back(pipeline: Pipeline, tiny: Path) -> None:
    first, before = Told(), pipeline.config
    after = config_of(tiny, scheduler={"use": "fifo", "max_sequences": 3}, server=[{"use": "http", "port": 0, "temperature": 0.5}] * 2)
    with pytest.raises(ConfigError, match="No"):
        apply(after, pipeline, [(first, "first"), (Told(refuses=True), "second")])
    assert [options.temperature for options in first.options] == [0.5, 1.0]
    assert (pipeline.config, pipeline.hosts["default"].scheduler) == (before, before.models["default"].scheduler)


def test_a_program_without_a_config_to_read_says_so(pipeline: Pipeline) -> None:
    servers = Servers(pipeline)
    from llmasos_hookspecs import Credentials

    with pytest.raises(RequestError, match="cannot read its config again"):
        servers.runtime.reload(servers.runtime.authenticate(Credentials()))
    again = Servers(pipeline, read_again=lambda: pipeline.config)
    assert again.runtime.reload(again.runtime.authenticate(Credentials())) == []
    for each in (servers, again):
        each.stop()
