"""Config is one TOML file, read in layers, checked against the plugins that are installed; each fault has its path."""

from __future__ import annotations

import json
import tomllib
import warnings
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from llmasos.cli import invoke
from llmasos.system.config_check import check_config
from llmasos.system.config_schema import config_schema
from llmasos.system.discovery import registry
from llmasos_config import ComponentConfig, Config, load_config, to_toml
from llmasos_config.tables import SIZES
from llmasos_hookspecs import ConfigError
from llmasos_hookspecs.testing import tiny_checkpoint

WHOLE = """
[model]
source = "smollm2"
[[accelerate]]
use = "prune"
method = "layers"
drop = 4
[[accelerate]]
use = "quant"
bits = 4
[loader]
use = "onnx"
threads = 2
[scheduler]
use = "fifo"
max_sequences = 8
[resources]
memory = "6GiB"
"""


def write(text: str, name: str = "llmasos.toml") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(mapping) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Config.from_mapping(mapping)
    return caught.value


def test_the_designs_config_is_read():
    config = load_config(write(WHOLE))
    model = config.models["default"]
    assert model.source == "smollm2"
    assert model.loader == ComponentConfig("onnx", {"threads": 2})
    assert model.accelerate == (ComponentConfig("prune", {"method": "layers", "drop": 4}), ComponentConfig("quant", {"bits": 4}))
    assert model.scheduler == ComponentConfig("fifo", {"max_sequences": 8})
    assert config.resources.memory == 6 << 30
    assert [component.path for _, component in config.components()] == ["loader", "accelerate[0]", "accelerate[1]", "scheduler"]


def test_an_empty_config_has_the_defaults():
    model = Config.from_mapping({}).models["default"]
    assert (model.source, model.loader.use, model.scheduler.use, model.accelerate) == ("smollm2", "auto", "fifo", ())


def test_several_models_each_have_their_own_and_take_the_rest_from_the_top():
    config = Config.from_mapping(
        {
            "model": {"context_length": 512},
            "scheduler": {"use": "fair"},
            "models": {
                "small": {"source": "a"},
                "big": {"source": "b", "loader": {"use": "torch"}, "context_length": 64, "accelerate": []},
            },
            "accelerate": [{"use": "quant"}],
        }
    )
    small, big = config.models["small"], config.models["big"]
    assert list(config.models) == ["small", "big"]
    assert config.default_model == "small"
    assert (small.context_length, small.loader.use, small.scheduler.use, len(small.accelerate)) == (512, "auto", "fair", 1)
    assert (big.context_length, big.loader.use, big.scheduler.use, len(big.accelerate)) == (64, "torch", "fair", 0)
    assert big.loader.path == "models.big.loader"


def test_the_model_table_is_a_model_beside_the_named_ones_where_it_has_a_source():
    config = Config.from_mapping({"model": {"source": "x"}, "models": {"y": {"source": "z"}}})
    assert {name: model.source for name, model in config.models.items()} == {"default": "x", "y": "z"}
    assert config.default_model == "default"


@pytest.mark.parametrize(
    ("mapping", "path", "said"),
    [
        ({"mode": {}}, "mode", 'mode is unknown; did you mean "model"?'),
        ({"model": {"sauce": "x"}}, "model.sauce", 'did you mean "source"?'),
        ({"model": {"source": 3}}, "model.source", "it must be a string"),
        ({"model": {"source": ""}}, "model.source", "not accepted"),
        ({"model": "smollm2"}, "model", "must be a table"),
        ({"loader": 3}, "loader", "must be a name, or a table with the key use"),
        ({"loader": {"use": 3}}, "loader.use", "it must be a name"),
        ({"accelerate": {"use": "quant"}}, "accelerate", "array of tables, each begun with [[accelerate]]"),
        (
            {"accelerate": [{"uze": "quant"}]},
            "accelerate[0].use",
            'did you mean it by "uze"?',
        ),
        ({"accelerate": [{"use": "quant"}, 7]}, "accelerate[1]", "it must be a name, or a table"),
        ({"resources": {"memory": "lots"}}, "resources.memory", "no amount of memory"),
        ({"resources": {"threads": 0}}, "resources.threads", "a whole number >= 1"),
        ({"resources": {"threads": True}}, "resources.threads", "must be a whole number"),
        ({"models": {"a": {}}}, "models.a.source", "must be set"),
        ({"models": {"a": 1}}, "models.a", "must be a table"),
        ({"models": {"a": {"source": "x", "loder": {}}}}, "models.a.loder", 'did you mean "loader"?'),
        ({"model": {"source": "x"}, "models": {"default": {"source": "y"}}}, "models.default", "give it another name"),
        ({"seed": -1}, "seed", "a whole number >= 0"),
        ({"observers": [{"path": "x"}]}, "observers[0].use", "must be set"),
    ],
)
def test_each_wrong_value_is_one_config_error_with_its_path(mapping, path, said):
    error = refused(mapping)
    assert error.path == path
    assert said in str(error)


def test_an_override_sets_one_value_and_leaves_the_rest():
    write(WHOLE)
    config = load_config(
        overrides=["scheduler.use=fair", "accelerate[1].bits=8", "model.source=./x", 'observers=["log"]', "loader.threads = 3"]
    )
    model = config.models["default"]
    assert model.scheduler == ComponentConfig("fair", {"max_sequences": 8})
    assert model.accelerate[1].options["bits"] == 8
    assert model.accelerate[0].options["drop"] == 4
    assert model.source == "./x"
    assert model.loader.options["threads"] == 3
    assert config.observers == (ComponentConfig("log"),)


def test_an_override_can_append_to_a_list_and_make_tables():
    config = load_config(overrides=["accelerate[0].use=quant", "accelerate[0].bits=4", "models.big.source=x", 'models."a.b".source=y'])
    assert config.models["big"].accelerate == (ComponentConfig("quant", {"bits": 4}),)
    assert config.models["a.b"].source == "y"


@pytest.mark.parametrize(
    "override",
    ["scheduler", "=3", "", "a..b=1", ".a=1", "[0]=1", "accelerate[7].use=x", "model.source.x=1", "accelerate.use=1", "scheduler.use[0]=3"],
)
def test_an_override_that_says_nothing_sensible_is_refused(override):
    write(WHOLE)
    with pytest.raises(ConfigError, match="override"):
        load_config(overrides=[override])


def test_later_layers_win_value_by_value_and_each_value_knows_where_it_was_set(home, monkeypatch):
    write(
        '[scheduler]\nuse = "fifo"\nmax_sequences = 2\n[[accelerate]]\nuse = "a"\n[[accelerate]]\nuse = "b"\n',
        str(home / "config/config.toml"),
    )
    write('[scheduler]\nmax_sequences = 4\n[[accelerate]]\nuse = "c"\n')
    config = load_config(overrides=["resources.threads=1"])
    assert config.models["default"].scheduler == ComponentConfig("fifo", {"max_sequences": 4})
    assert [stage.use for stage in config.models["default"].accelerate] == ["c"]
    assert config.origin("scheduler.use") == str(home / "config/config.toml")
    assert config.origin("scheduler.max_sequences") == "llmasos.toml"
    assert config.origin("accelerate[0].use") == "llmasos.toml"
    assert config.origin("resources.threads") == "--set"
    assert config.origin("accelerate[1].use") == config.origin("model.source") == "default"
    write("[scheduler]\nmax_sequences = 6\n", "other.toml")
    monkeypatch.setenv("LLMASOS_CONFIG", "other.toml")
    assert load_config().models["default"].scheduler.options == {"max_sequences": 6}
    assert load_config("llmasos.toml").models["default"].scheduler.options == {"max_sequences": 4}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[model\n", r"is no TOML: .*line 1"),
        (b"a = 1\na = 2\n", r"is no TOML"),
        (b"[model]\nsource = '\xff'\n", r"is not UTF-8 \(byte 18\)"),
        (b"x = " + b"[" * 20_000, r"is no TOML"),
        (b"x = " + b"9" * 9_000, r"is no TOML"),
        (b"#" * (2 << 20), r"larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_config_is_one_sentence(content, said):
    Path("llmasos.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_config()


def test_a_file_that_is_not_there_is_one_sentence():
    with pytest.raises(ConfigError, match=r"The config file nowhere.toml cannot be read: No such file"):
        load_config("nowhere.toml")
    with pytest.raises(ConfigError, match=r"is a folder"):
        load_config(".")


def test_all_problems_with_plugins_are_reported_at_once(site):
    site.add("sched-mine", "scheduler", "mine")
    site.add("broken", "accelerator", "broken", "raise RuntimeError('no')")
    config = Config.from_mapping(
        {
            "scheduler": {"use": "mine", "max_sequences": "8", "ordre": "new"},
            "accelerate": [{"use": "broken"}, {"use": "mising"}],
            "loader": {"use": "zzz"},
        }
    )
    found = {str(error) for error in check_config(config, site.registry)}
    assert len(found) == 5
    assert any("loader.use: no loader" in sentence for sentence in found)
    assert any('accelerate[0].use: the accelerator "broken" (broken 1.0) cannot be imported' in sentence for sentence in found)
    assert any('accelerate[1].use: no accelerator "mising"' in sentence for sentence in found)
    assert any('scheduler.max_sequences is "8", a string' in sentence for sentence in found)
    assert any('scheduler.ordre is unknown; did you mean "order"?' in sentence for sentence in found)


def test_a_sound_config_has_no_problems(site):
    site.add("sched-mine", "scheduler", "mine")
    site.add("loads", "loader", "loads", LOADER)
    config = Config.from_mapping({"scheduler": {"use": "mine", "max_sequences": 3}, "loader": {"use": "loads", "threads": 1}})
    assert check_config(config, site.registry) == ()


LOADER = """
import attrs
from llmasos_hookspecs import Component, hookimpl

@attrs.frozen
class Options:
    threads: int | None = None

@hookimpl
def llmasos_component():
    return Component(summary="Loads.", options=Options, preference=10_000)

@hookimpl
def llmasos_load(checkpoint, options, context):
    return 1
"""


def test_automatic_loading_needs_a_loader_that_takes_the_options(site):
    site.add("sched-mine", "scheduler", "mine")
    site.add("loads", "loader", "loads", LOADER)
    good = Config.from_mapping({"scheduler": "mine", "loader": {"threads": 1}})
    bad = Config.from_mapping({"scheduler": "mine", "loader": {"no_loader_has_this": 1}})
    assert check_config(good, site.registry) == ()
    assert [error.path for error in check_config(bad, site.registry)] == ["loader.no_loader_has_this"]


def test_the_schema_holds_the_options_of_what_is_installed(site):
    site.add("sched-mine", "scheduler", "mine")
    site.add("broken", "scheduler", "broken", "raise RuntimeError('no')")
    schema = config_schema(site.registry)
    uses = [variant["properties"]["use"]["enum"] for variant in schema["$defs"]["scheduler"]["anyOf"] if "properties" in variant]
    assert ["mine", "sched-mine:mine"] in uses
    assert not any("broken" in use for use in uses)
    assert schema["properties"]["resources"]["properties"]["memory"]["type"] == ["integer", "string"]
    assert set(schema["properties"]) >= {"model", "models", "loader", "accelerate", "scheduler", "tasks", "observers", "seed"}
    json.dumps(schema)


def test_a_config_written_as_toml_reads_the_same():
    config = Config.from_mapping(
        {
            **tomllib.loads(WHOLE),
            "models": {"a b": {"source": "x"}},
            "tasks": {"generate": {}},
            "observers": [{"use": "log", "to": 'ß\n"\x7f'}],
        }
    )
    text = to_toml(config.to_mapping())
    assert Config.from_mapping(tomllib.loads(text)) == config


toml_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
toml_values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | toml_text | st.dates() | st.datetimes() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(toml_text, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(toml_text, toml_values, max_size=4))
def test_whatever_toml_can_hold_is_written_and_read_the_same(mapping):
    assert tomllib.loads(to_toml(mapping)) == mapping


def test_a_check_tells_all_problems_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Structure, components and options of generations; then plans that cannot work, for a model that is here. JSON has them too."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line sets
    monkeypatch.setenv("LLMASOS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_text('seeed = 1\n[resources]\nmemory = "x"\n[loader]\nuse = "onx"\n[model.sampling]\ntemprature = 1\n')
    assert invoke(["config", "check", "--config", str(bad), "--json"]) == 2
    told = [problem["message"] for problem in json.loads(capsys.readouterr().out)["problems"]]
    assert [sentence.split()[0] for sentence in told] == ["seeed", "resources.memory:", "loader.use:", "model.sampling:"]
    plan = tmp_path / "plan.toml"
    tiny_checkpoint(folder=tmp_path / "tiny")
    plan.write_text('[model]\nsource = "./tiny"\n[[accelerate]]\nuse = "quant"\n[[accelerate]]\nuse = "quant"\nbits = 4\n')
    assert invoke(["config", "check", "--config", str(plan)]) == 2
    assert "accelerate[1]: The weights are quantised already" in capsys.readouterr().err
    assert invoke(["config", "check", "--config", str(plan), "--set", "model.source=./elsewhere"]) == 0
    assert invoke(["config", "check", "--set", "nonsense", "--json"]) == 2
    assert "path=value" in capsys.readouterr().out


def test_sizes_may_be_texts_for_the_schema_too() -> None:
    """Every key that is bytes."""
    properties = config_schema(registry())["properties"]["resources"]["properties"]
    assert {key for key, value in properties.items() if value.get("type") == ["integer", "string"]} == set(SIZES)
    assert {"memory", "reserve", "stage_cache", "loader_cache"} == set(SIZES)
