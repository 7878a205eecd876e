"""What a loader returns is checked before it is used: an engine that takes media."""

from __future__ import annotations

from typing import Any

import attrs

from llmasos_plugin_calls.returned import fault_of


def test_an_engine_that_takes_media_must_measure_them(media_engine: Any, hash_engine: Any) -> None:
    """So must an encoder-decoder leave room for a target; the load is refused, with the reason."""
    translator = media_engine("source", source_length=32)
    assert not fault_of("llmasos_load", translator)
    plain = hash_engine()
    plain.info = attrs.evolve(plain.info, features=plain.info.features | {"media"})
    assert "media_length" in fault_of("llmasos_load", plain)
    for length, said in ((0, "at least 1"), (64, "no room for a target")):
        translator.info = attrs.evolve(translator.info, source_length=length)
        assert said in fault_of("llmasos_load", translator)
