"""Conformance tests of speakers."""

from __future__ import annotations

import threading
from typing import Any, ClassVar, Final

import numpy as np
import pytest

from llmasos_hookspecs.testing.plugin import PluginConformance
from llmasos_hookspecs.testing.sandbox import PluginSandbox, SandboxContext
from llmasos_hookspecs.testing.sound import Sound, check_described, check_piece, joined
from llmasos_hookspecs.voice import Speaker

#: Texts that every speaker must take.
TEXTS: Final = (
    *("a", "\n\n", "1,234.5 %", "e\u0301 👩‍👩‍👧 🙂", "今天天气很好。", "-v --help", "[[x]] <speak>&amp;</speak>"),
    *("\u200b\u202e\0\x1b[2J", "\ud800", "@/etc/passwd", "'; exit 1; \"$(exit 1)`"),
)
#: Texts in which there is nothing to say.
WORDLESS: Final = ("", "   \n")


class SpeakerConformance(PluginConformance, standard=True):
    """Subclass it, name the plugin, and pytest proves it::

        class TestConformance(SpeakerConformance):
            module = "llmasos_voice_mine"

    A speaker that needs files of a voice is made by the fixture ``speaker``, which may be replaced.

    Attributes:
        short, long: texts of a language that it speaks; the second takes longer to say.
        seconds: what saying ``short`` takes at least and at most.
    """

    kind = "speaker"
    short: ClassVar[str] = "The otters sleep."
    long: ClassVar[str] = "The otters sleep. In the morning they swim down the river, and look for fish between the stones."
    seconds: ClassVar[tuple[float, float]] = (0.3, 10.0)

    @pytest.fixture(scope="class")
    @classmethod
    def speaker(cls, sandbox: PluginSandbox, tmp_path_factory: pytest.TempPathFactory) -> Speaker:
        """The speaker, made once."""
        context = SandboxContext(root=tmp_path_factory.mktemp("speaker"))
        made: Speaker = sandbox.call("llmasos_create_speaker", options=cls.plugin_options(sandbox), context=context)
        return made

    @pytest.fixture(scope="class")
    @classmethod
    def spoken(cls, speaker: Speaker) -> Sound:
        """The sound of ``short``."""
        return joined(speaker.speak(cls.short))

    @pytest.fixture(scope="class")
    @classmethod
    def spoken_long(cls, speaker: Speaker) -> list[tuple[Sound, Sound]]:
        """The pieces of ``long``, each with a copy from before the next was made."""
        return [(piece, piece.copy()) for piece in speaker.speak(cls.long)]

    def test_says_what_it_makes(self, speaker: Speaker) -> None:
        """A sample rate, and codes of languages."""
        check_described(speaker)

    def test_makes_sound(self, speaker: Speaker, spoken: Sound) -> None:
        """Of float32 between -1 and 1, as long as speech is, and not silent."""
        for piece in speaker.speak(self.short):
            check_piece(piece)
        seconds = len(spoken) / speaker.sample_rate
        least, most = self.seconds
        assert least <= seconds <= most, f"{self.short!r} is {seconds:.2f} s of sound, and it must be between {least} and {most} s."
        assert float(np.sqrt((spoken**2).mean())) > 1e-3, f"{self.short!r} is silent."

    def test_a_longer_text_is_longer(self, spoken_long: list[tuple[Sound, Sound]], spoken: Sound) -> None:
        """More words take more time; the first comes with the text as the second does."""
        assert len(joined(copy for _, copy in spoken_long)) > len(spoken), f"{self.long!r} is no longer than {self.short!r}."

    def test_pieces_are_arrays_of_their_own(self, spoken_long: list[tuple[Sound, Sound]]) -> None:
        """A piece stays as it is while the next ones are made."""
        assert all(np.array_equal(piece, copy) for piece, copy in spoken_long), "A piece of sound changes once the next one is made."

    def test_says_nothing_of_nothing(self, speaker: Speaker) -> None:
        """A text without words is no sound, or silence."""
        for text in WORDLESS:
            sound = joined(speaker.speak(text))
            assert not sound.size or float(np.abs(sound).max()) < 0.01, f"{text!r} makes a sound."

    def test_takes_every_text(self, speaker: Speaker) -> None:
        """Whatever a model writes is said or passed over, and no text is an option, a file or a command."""
        for text in TEXTS:
            pieces = list(speaker.speak(text))
            for piece in pieces:
                check_piece(piece)
            seconds = len(joined(pieces)) / speaker.sample_rate
            assert seconds < 60, f"{text!r} is {seconds:.0f} s of sound."

    def test_can_be_left_early(self, speaker: Speaker, spoken: Sound) -> None:
        """An iterator that is closed after its first piece, or before it, leaves the speaker as it was, and no thread behind."""
        before = threading.active_count()
        for taken in (0, 1):
            pieces: Any = speaker.speak(self.long)
            for _ in range(taken):
                next(pieces)
            assert callable(getattr(pieces, "close", None)), "speak returns what cannot be closed; return a generator."
            pieces.close()
            assert next(pieces, None) is None, "A closed iterator goes on."
        assert threading.active_count() <= before, "A closed iterator leaves a thread behind."
        assert alike(len(joined(speaker.speak(self.short))), len(spoken)), "After a text that was left early, the next is another."

    def test_texts_do_not_mix(self, speaker: Speaker, spoken: Sound, spoken_long: list[tuple[Sound, Sound]]) -> None:
        """Two texts at once, piece by piece in turn, are two sounds of the lengths that they have alone."""
        long = joined(copy for _, copy in spoken_long)
        sounds: list[list[Sound]] = [[], []]
        running = [(sounds[0], speaker.speak(self.short)), (sounds[1], speaker.speak(self.long))]
        while running:
            for each in tuple(running):
                piece = next(each[1], None)
                if piece is None:
                    running.remove(each)
                else:
                    each[0].append(piece)
        for pieces, alone in zip(sounds, (spoken, long), strict=True):
            assert alike(len(joined(pieces)), len(alone)), "Two texts at once were mixed up."


def alike(a: int, b: int) -> bool:
    """Whether two sounds of one text may have these lengths: voices draw the lengths of their sounds at random."""
    return abs(a - b) <= 0.25 * max(a, b)
