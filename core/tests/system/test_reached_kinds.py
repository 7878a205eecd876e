"""A transcriber and a speaker: their tables in config, and how other components reach what those name."""

from __future__ import annotations

from typing import Any

import pytest

from llmasos.compose.component_maker import ComponentMaker
from llmasos.system.config_check import check_config
from llmasos.system.config_schema import config_schema
from llmasos.system.context import SilentSink
from llmasos_config import Config
from llmasos_config.catalog import distribution_for
from llmasos_config.components import REACHED
from llmasos_hookspecs import ConfigError, PluginError
from llmasos_model_store.store import Store

from .conftest import Site

HEARING = """
    import attrs
    from llmasos_hookspecs import Component, hookimpl

    @attrs.frozen
    class Options:
        words: int = 1
        loud: bool = False

    class Hearing:
        sample_rate, languages = 16_000, ("en",)
        def __init__(self, options): self.options = options
        def open(self, language=""): return None

    @hookimpl
    def llmasos_component(): return Component(summary="Hears.", options=Options)

    @hookimpl
    def llmasos_create_transcriber(options): return Hearing(options)
"""


def maker(site: Site, store: Store, **tables: Any) -> ComponentMaker:
    return ComponentMaker(Config.from_mapping(tables), registry=site.registry, store=store, sink=SilentSink())


def test_a_component_gets_what_the_table_names(site: Site, store: Store) -> None:
    """With its options; those that the caller gives come first, and a caller that names another gets that one without them."""
    site.add("voice-mine", "transcriber", "mine", HEARING)
    site.add("voice-other", "transcriber", "other", HEARING)
    reach = maker(site, store, transcriber={"use": "mine", "words": 3}).reach
    made = reach("me", "transcriber", "", {"loud": True})
    assert made.label == 'transcriber "mine" (voice-mine 1.0)'
    assert (made.options.words, made.options.loud) == (3, True)
    assert made.make().options == made.options
    assert reach("me", "transcriber", "other", {}).options.words == 1


@pytest.mark.parametrize(
    ("tables", "kind", "error", "sentence"),
    [
        ({"transcriber": "nine"}, "transcriber", PluginError, 'No transcriber "nine" is installed; did you mean "mine"'),
        ({"transcriber": {"use": "mine", "word": 1}}, "transcriber", ConfigError, r"transcriber\.word is unknown; did you mean \"words\""),
        (
            {},
            "scheduler",
            PluginError,
            'The plugin "me" asked for the scheduler of the config, which has no table for one; this is a fault',
        ),
    ],
)
def test_what_is_not_there_is_one_sentence(
    site: Site, store: Store, tables: dict[str, Any], kind: str, error: type[Exception], sentence: str
) -> None:
    """Names and options that there are not, and kinds without a table."""
    site.add("voice-mine", "transcriber", "mine", HEARING)
    with pytest.raises(error, match=sentence):
        maker(site, store, **tables).reach("me", kind, "", {})


def test_without_a_table_the_usual_ones_are_meant(site: Site, store: Store) -> None:
    """And the package that brings one is known."""
    config = Config.from_mapping({})
    usual = {kind: config.configured(kind).use for kind in REACHED}
    assert usual == {"transcriber": "whisper", "speaker": "piper"}
    assert [distribution_for(kind, name) for kind, name in usual.items()] == ["llmasos-voice-whisper", "llmasos-voice-piper"]
    with pytest.raises(KeyError):
        config.configured("scheduler")


def test_the_tables_are_config_like_any_other(site: Site) -> None:
    """They are checked, written back and in the schema; a config without them names no transcriber, so that none need be installed."""
    site.add("voice-mine", "transcriber", "mine", HEARING)
    config = Config.from_mapping({"transcriber": {"use": "mine", "words": 2}})
    assert config.to_mapping()["transcriber"] == {"use": "mine", "words": 2}
    assert Config.from_mapping(config.to_mapping()) == config
    assert [kind for kind, _ in config.components() if kind in ("transcriber", "speaker")] == ["transcriber"]
    assert "speaker" not in config.to_mapping()
    wrong = Config.from_mapping({"transcriber": {"use": "mine", "words": "two"}})
    (problem,) = (each for each in check_config(wrong, site.registry) if "transcriber" in str(each))
    assert "transcriber.words" in str(problem)
    with pytest.raises(ConfigError, match="speaker is 3, a whole number, and it must be a name, or a table"):
        Config.from_mapping({"speaker": 3})
    schema = config_schema(site.registry)
    assert schema["properties"]["transcriber"]["default"] == {"use": "whisper"}
    (variant,) = (
        each for each in schema["$defs"]["transcriber"]["anyOf"] if "mine" in each.get("properties", {}).get("use", {}).get("enum", ())
    )
    assert variant["properties"]["words"]["type"] == "integer"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("def open(", "def opens(", "without open"),
        ("sample_rate, languages = 16_000", "sample_rate, languages = 16e3", "whose sample_rate is 16000.0, and it must be a whole number"),
        ('("en",)', '"en"', "whose languages are 'en', and they must be a tuple of codes"),
    ],
)
def test_what_a_hook_makes_is_looked_at(site: Site, store: Store, old: str, new: str, sentence: str) -> None:
    """Before anything uses it."""
    assert old in HEARING
    site.add("voice-mine", "transcriber", "mine", HEARING.replace(old, new))
    with pytest.raises(PluginError, match=sentence):
        maker(site, store, transcriber="mine").reach("me", "transcriber", "", {}).make()
