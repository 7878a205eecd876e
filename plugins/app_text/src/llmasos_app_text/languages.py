"""English names of languages, and the codes under which translation models know them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from llmasos_hookspecs import RequestError
from llmasos_hookspecs.nearest import did_you_mean

#: Name, ISO 639-1 code and the ISO 639-3 codes that models write: the language's own, then those of its usual form.
_NAMES: Final = """
    Afrikaans af afr; Albanian sq sqi als; Amharic am amh; Arabic ar ara arb; Armenian hy hye; Asturian ast ast; Azerbaijani az aze azj;
    Bashkir ba bak; Basque eu eus; Belarusian be bel; Bengali bn ben; Bosnian bs bos; Breton br bre; Bulgarian bg bul; Burmese my mya;
    Catalan ca cat; Cebuano ceb ceb; Chinese zh zho cmn; Croatian hr hrv; Czech cs ces; Danish da dan; Dutch nl nld; English en eng;
    Esperanto eo epo; Estonian et est ekk; Finnish fi fin; French fr fra; Galician gl glg; Ganda lg lug; Georgian ka kat; German de deu;
    Greek el ell; Gujarati gu guj; Haitian ht hat; Hausa ha hau; Hebrew he heb; Hindi hi hin; Hungarian hu hun; Icelandic is isl;
    Igbo ig ibo; Iloko ilo ilo; Indonesian id ind; Irish ga gle; Italian it ita; Japanese ja jpn; Javanese jv jav; Kannada kn kan;
    Kazakh kk kaz; Khmer km khm; Korean ko kor; Lao lo lao; Latvian lv lav lvs; Lingala ln lin; Lithuanian lt lit; Luxembourgish lb ltz;
    Macedonian mk mkd; Malagasy mg mlg plt; Malay ms msa zsm; Malayalam ml mal; Maltese mt mlt; Marathi mr mar; Mongolian mn mon khk;
    Nepali ne nep npi; Norwegian no nor nob; Occitan oc oci; Odia or ori ory; Pashto ps pus pbt; Persian fa fas pes; Polish pl pol;
    Portuguese pt por; Punjabi pa pan; Romanian ro ron; Russian ru rus; Serbian sr srp; Sindhi sd snd; Sinhala si sin; Slovak sk slk;
    Slovenian sl slv; Somali so som; Spanish es spa; Sundanese su sun; Swahili sw swa swh; Swati ss ssw; Swedish sv swe; Tagalog tl tgl;
    Tamil ta tam; Telugu te tel; Thai th tha; Tswana tn tsn; Turkish tr tur; Ukrainian uk ukr; Urdu ur urd; Uzbek uz uzb uzn;
    Vietnamese vi vie; Welsh cy cym; Western Frisian fy fry; Wolof wo wol; Xhosa xh xho; Yiddish yi yid ydd; Yoruba yo yor; Zulu zu zul
"""

#: Lower-case name -> codes.
LANGUAGES: Final[dict[str, tuple[str, ...]]] = {
    " ".join(words).lower(): tuple(codes)
    for entry in _NAMES.split(";")
    for words, codes in [([word for word in entry.split() if word[0].isupper()], [word for word in entry.split() if not word[0].isupper()])]
}
_OTHER_NAMES: Final = {
    "farsi": "persian", "frisian": "western frisian", "haitian creole": "haitian", "mandarin": "chinese", "filipino": "tagalog",
    "simplified chinese": "chinese", "myanmar": "burmese", "luganda": "ganda", "oriya": "odia", "bangla": "bengali",
}  # fmt: skip
#: Names whose script decides, and how their code ends.
_SCRIPTS: Final = {"traditional chinese": ("chinese", "Hant")}


def code_of(name: str, codes: Sequence[str], param: str) -> str:
    """The model's code, out of ``codes``, of the language with this English name; a code stands for itself.

    Raises:
        RequestError: the model has no code of it; ``param`` names the input.
    """
    if name in codes:
        return name
    plain = " ".join(name.lower().split())
    plain, script = _SCRIPTS.get(plain, (plain, ""))
    wanted = LANGUAGES.get(_OTHER_NAMES.get(plain, plain))
    if wanted is None:
        raise RequestError(f"{param} is {name!r}, which is no language known here{did_you_mean(plain, LANGUAGES)}", param)
    # In the order of ``wanted``: a language's own code before that of one of its forms.
    found = [code for each in wanted for code in codes if _language(code) == each]
    if not found:
        raise RequestError(f"{param} is {name!r}, and the model has no code of that; it has {', '.join(codes[:8])} and so on.", param)
    ending = script or ("Hans" if plain == "chinese" else "Latn")
    return next((code for code in found if code.endswith(ending)), found[0])


def prefix_of(target: str, source: str, prefixes: Sequence[str]) -> str:
    """The prefix, out of those a model was trained with, that asks for a translation: ``translate English to German: ``.

    Raises:
        RequestError: none names the languages.
    """
    asks = re.compile(rf"\b{re.escape(source)}\b.*\bto {re.escape(target)}\b" if source else rf"\bto {re.escape(target)}\b", re.IGNORECASE)
    found = [prefix for prefix in prefixes if asks.search(prefix)]
    if not found:
        known = "; ".join(prefix.strip() for prefix in prefixes)
        raise RequestError(f"The model was not trained to translate {f'from {source} ' if source else ''}to {target}; it knows: {known}")
    return found[0]


def _language(code: str) -> str:
    """``fr`` of ``fr_XX`` and ``__fr__``, ``fra`` of ``fra_Latn`` and ``>>fra<<``."""
    return code.strip("_<>").partition("_")[0]
