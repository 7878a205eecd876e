"""Presets: models that users made of others stand wherever a model does; what config sets itself holds over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmasos import load_model
from llmasos.api.presets import save_preset
from llmasos_config import Config, load_config
from llmasos_config.aliases import Aliases
from llmasos_config.presets import Presets, read_preset
from llmasos_hookspecs import ConfigError, LLMasOSError
from llmasos_hookspecs.testing import tiny_checkpoint


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]) -> Path:
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_preset_holds_where_config_sets_nothing() -> None:
    """Values are merged one by one; another component takes the place of the preset's with its options."""
    tables = {
        "model": {"source": "smollm2", "system": "Be brief.", "sampling": {"temperature": 0.2, "top_k": 5}},
        "loader": {"use": "onnx", "threads": 2},
        "accelerate": [{"use": "quant", "bits": 8}],
    }
    file = save_preset("brief", tables)
    model = Config.from_mapping({"model": {"source": "brief"}}).models["default"]
    assert (model.source, model.preset, model.reference, model.system) == ("smollm2", "brief", "brief", "Be brief.")
    assert (model.loader.to_mapping(), model.accelerate[0].options) == ({"use": "onnx", "threads": 2}, {"bits": 8})
    given = {"model": {"source": "brief", "system": "Sing.", "sampling": {"top_k": 9}}, "loader": {"threads": 1}, "accelerate": []}
    model = Config.from_mapping(given).models["default"]
    assert (model.system, model.sampling) == ("Sing.", {"temperature": 0.2, "top_k": 9})
    assert (model.loader.to_mapping(), model.accelerate) == ({"use": "onnx", "threads": 1}, ())
    assert Config.from_mapping({**given, "loader": "torch"}).models["default"].loader.to_mapping() == {"use": "torch"}
    config = load_config(overrides=["model.source=brief", "loader.threads=4"])
    assert (config.origin("model.system"), config.origin("loader.use"), config.origin("loader.threads")) == (str(file), str(file), "--set")
    assert Config.from_mapping(config.to_mapping()) == config


def test_several_models_of_one_config_have_presets() -> None:
    """A model's own tables hold over its preset, and its preset over what all models share."""
    save_preset("brief", {"model": {"source": "smollm2", "system": "Be brief."}, "scheduler": {"use": "fair"}})
    config = Config.from_mapping(
        {
            "scheduler": "sjf",
            "models": {"a": {"preset": "brief"}, "b": {"source": "brief", "scheduler": "fifo"}, "c": {"source": "smollm2"}},
        }
    )
    assert [config.models[name].scheduler.use for name in "abc"] == ["fair", "fifo", "sjf"]
    assert [config.models[name].system for name in "abc"] == ["Be brief.", "Be brief.", ""]
    other = Config.from_mapping({"model": {"source": "./other", "preset": "brief"}}).models["default"]
    assert (other.source, other.system) == ("./other", "Be brief.")


def test_a_preset_of_a_preset_holds_over_it() -> None:
    save_preset("brief", {"model": {"source": "smollm2", "system": "Be brief.", "sampling": {"top_k": 5}}})
    save_preset("briefer", {"model": {"source": "brief", "system": "Be briefer."}})
    model = Config.from_mapping({"model": {"source": "briefer"}}).models["default"]
    assert (model.source, model.system, model.sampling) == ("smollm2", "Be briefer.", {"top_k": 5})


@pytest.mark.parametrize(
    ("name", "tables", "sentence"),
    [
        ("a b", {"model": {"source": "smollm2"}}, "cannot name a preset"),
        ("../a", {"model": {"source": "smollm2"}}, "cannot name a preset"),
        ("smollm2", {"model": {"source": "smollm2"}}, "is an alias already"),
        ("mine", {}, "no model.source"),
        ("mine", {"model": {"source": "mine"}}, "made from itself"),
        ("mine", {"model": {"source": "smollm"}}, 'did you mean "smollm2"'),
        ("mine", {"model": {"source": "brif"}}, 'did you mean "brief"'),
        ("mine", {"modle": {}}, 'did you mean "model"'),
        ("mine", {"model": {"source": "smollm2", "sampling": {"temprature": 1}}}, 'did you mean "temperature"'),
        ("mine", {"model": {"source": "smollm2", "sampling": {"temperature": -1}}}, "temperature is -1"),
        ("mine", {"model": {"source": "smollm2", "messages": [{"role": "user"}]}}, "must have a role and a content"),
        ("mine", {"model": {"source": "smollm2"}, "loader": {"use": "onx"}}, 'did you mean "onnx"'),
        ("brief", {"model": {"source": "smollm2"}}, "already"),
    ],
)
def test_a_preset_that_could_not_be_used_is_not_kept(name: str, tables: dict, sentence: str) -> None:
    save_preset("brief", {"model": {"source": "smollm2"}})
    with pytest.raises(LLMasOSError, match=sentence):
        save_preset(name, tables)
    assert Presets().names() == ("brief",)


def test_presets_that_lead_in_a_circle_or_are_damaged_are_told(home: Path) -> None:
    folder = Presets().folder
    folder.mkdir(parents=True)
    (folder / "a.toml").write_text('model.source = "b"')
    (folder / "b.toml").write_text('model.source = "a"')
    (folder / "c.toml").write_text("model.source =")
    with pytest.raises(ConfigError, match="a -> b -> a leads in a circle"):
        Config.from_mapping({"model": {"source": "a"}})
    with pytest.raises(ConfigError, match=r"c\.toml is no TOML"):
        Config.from_mapping({"model": {"source": "c"}})
    with pytest.raises(ConfigError, match='did you mean "b"'):
        Config.from_mapping({"model": {"preset": "bb"}})


def test_a_model_of_a_preset_answers_as_it_says(home: Path) -> None:
    """System message, examples, options and template reach every way to ask; what a request says itself holds."""
    tiny_checkpoint(folder=home / "tiny")
    template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"
    examples = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "one"}]
    model = {"source": str(home / "tiny"), "system": "Count.", "messages": examples, "chat_template": template}
    save_preset("counter", {"model": {**model, "sampling": {"max_new_tokens": 3}}, "loader": {"use": "onnx"}})
    with load_model("counter") as counter:
        asked = [{"role": "user", "content": "2"}]
        before = "system=Count.;user=1;assistant=one;"
        assert counter.render(asked) == f"{before}user=2;"
        assert counter.render([{"role": "system", "content": "Hush."}, *asked]) == "system=Hush.;user=1;assistant=one;user=2;"
        assert len(counter.generate(asked).tokens) == 3
        assert counter.generate(asked, max_new_tokens=5).tokens == counter.generate(f"{before}user=2;", max_new_tokens=5).tokens
        assert counter.describe()["source"] == "counter"
        assert counter.count_tokens(asked) == counter.generate(asked).prompt_tokens


def test_an_alias_may_stand_for_a_preset_no_less_than_for_a_model(home: Path) -> None:
    """A shared file reads as it was written, and a preset that is removed is gone."""
    file = save_preset("brief", {"model": {"source": "smollm2", "system": 'Be "brief"\n'}})
    assert read_preset(file) == {"model": {"source": "smollm2", "system": 'Be "brief"\n'}}
    Aliases().set("short", "brief")
    assert Config.from_mapping({"model": {"source": "short"}}).models["default"].preset == "brief"
    Presets().remove("brief")
    assert Presets().names() == ()
    with pytest.raises(ConfigError, match="no preset"):
        Presets().remove("brief")
