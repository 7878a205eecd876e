"""``translate`` with encoder-decoders: codes and prefixes from names of languages, and texts cut to what a source may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from llmasos_app_text import translate
from llmasos_app_text.languages import LANGUAGES, code_of, prefix_of
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing import ScriptedTaskModel

M2M = ("__en__", "__fr__", "__zh__", "__ast__", "__fa__")
MBART = ("en_XX", "fr_XX", "zh_CN", "fa_IR", "ko_KR")
NLLB = ("eng_Latn", "fra_Latn", "zho_Hant", "zho_Hans", "pes_Arab", "srp_Cyrl", "swh_Latn")
MARIAN = (">>fra<<", ">>cmn<<", ">>spa<<")


@pytest.mark.parametrize(
    ("name", "codes", "code"),
    [
        ("French", M2M, "__fr__"),
        ("  french ", MBART, "fr_XX"),
        ("French", NLLB, "fra_Latn"),
        ("French", MARIAN, ">>fra<<"),
        ("Chinese", MBART, "zh_CN"),
        ("Chinese", NLLB, "zho_Hans"),
        ("Traditional Chinese", NLLB, "zho_Hant"),
        ("Chinese", MARIAN, ">>cmn<<"),
        ("Farsi", NLLB, "pes_Arab"),
        ("Persian", M2M, "__fa__"),
        ("Swahili", NLLB, "swh_Latn"),
        ("Serbian", NLLB, "srp_Cyrl"),
        ("ko_KR", MBART, "ko_KR"),
    ],
)
def test_names_of_languages_become_a_model_s_codes(name: str, codes: tuple[str, ...], code: str) -> None:
    """In the form of each family; a code stands for itself."""
    assert code_of(name, codes, "target") == code


@pytest.mark.parametrize(("name", "said"), [("Frensh", "french"), ("Klingon", "no language known"), ("Welsh", "has no code of that")])
def test_a_language_that_a_model_lacks_is_refused(name: str, said: str) -> None:
    """With the nearest name, or with some of the codes that the model has."""
    with pytest.raises(RequestError, match=said):
        code_of(name, M2M, "target")


def test_the_table_of_languages_is_whole() -> None:
    """Each name has a two- or three-letter code first, and no code belongs to two of them."""
    codes = [code for entry in LANGUAGES.values() for code in set(entry)]
    assert len(LANGUAGES) == 101
    assert all(code.isalpha() and code.islower() and len(code) in (2, 3) for code in codes)
    assert len(codes) == len(set(codes))


def test_prefixes_are_chosen_by_both_languages() -> None:
    """T5's config lists them; a pair that it was not trained for is refused with those that it knows."""
    prefixes = ("summarize: ", "translate English to German: ", "translate English to French: ")
    assert prefix_of("French", "", prefixes) == prefixes[2]
    assert prefix_of("german", "english", prefixes) == prefixes[1]
    for target, source in (("Spanish", ""), ("German", "French"), ("Ger", "")):
        with pytest.raises(RequestError, match="it knows: summarize:"):
            prefix_of(target, source, prefixes)


class Translator(ScriptedTaskModel):
    """A scripted encoder-decoder, whose answer is its source in capitals."""

    def __init__(self, *, languages: tuple[str, ...] = (), prefixes: tuple[str, ...] = (), marks: bool = True, length: int = 40) -> None:
        super().__init__(lambda text, _: text.upper(), context_length=2 * length + 20, has_chat_template=False)
        self.source_length = length
        self.languages, self.prefixes, self.has_source_languages = languages, prefixes, marks
        self.asked: list[Mapping[str, Any]] = []

    def batch(self, prompts: Any, **sampling: Any) -> Any:
        self.asked.append(dict(sampling))
        assert all(isinstance(prompt, str) and len(prompt) <= self.source_length for prompt in prompts)
        assert sampling["max_new_tokens"] <= self.context_length - self.source_length
        languages = ("source_language", "target_language")
        return super().batch(prompts, **{name: value for name, value in sampling.items() if name not in languages})


def run(model: Translator, text: str, target: str, source: str = "") -> str:
    task = translate.Translate(translate.Options())
    return str(task.run(model, translate.Inputs(text=text, target=target, source=source)).text)


def test_a_text_is_the_source_itself() -> None:
    """No instruction is put around it; paragraphs and line ends stay, and parts fit a source."""
    model = Translator(languages=MBART)
    text = "One two three. Four five six.\nSeven eight.\n\nNine ten eleven twelve thirteen fourteen fifteen."
    assert run(model, text, "French", "English") == text.upper()
    assert len(model.calls) > 3
    assert all((asked["target_language"], asked["source_language"]) == ("fr_XX", "en_XX") for asked in model.asked)


def test_what_a_model_cannot_be_told_is_left_out() -> None:
    """One that marks its targets alone is not told the source, one of a single pair nothing, and T5 by its prefix."""
    marian = Translator(languages=MARIAN, marks=False)
    run(marian, "Good morning.", "French", "English")
    assert marian.asked[0].keys() == {"max_new_tokens", "target_language"}
    single = Translator()
    assert run(single, "Good morning.", "French") == "GOOD MORNING."
    assert single.asked[0].keys() == {"max_new_tokens"}
    t5 = Translator(prefixes=("translate English to French: ",), length=60)
    assert run(t5, "Good morning.", "French").endswith(": GOOD MORNING.")


def test_a_source_without_room_is_refused() -> None:
    """A prefix as long as what the model reads."""
    with pytest.raises(RequestError, match="leaves no room"):
        run(Translator(prefixes=("translate English to French: ",), length=30), "Good morning.", "French")
