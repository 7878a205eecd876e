"""One turn: what was said is written down, answered, and the answer spoken, on a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Final

import numpy as np

from llmasos_app_voice.talking.clauses import clauses
from llmasos_app_voice.talking.playback import Playback
from llmasos_hookspecs import Speaker


class Reply:
    """A turn in progress.

    Args:
        hear: what was said; may take a while.
        answer: the pieces of an answer to it.
        before: the turn before this one, which is waited for.

    Attributes:
        playback: the sound of the answer.
        heard: what was said, once it is known.
        error: what ended it before its end.
        interrupted: it was stopped by speech.
    """

    def __init__(
        self, hear: Callable[[], str], answer: Callable[[str], Generator[str, None, None]], speaker: Speaker, before: Reply | None = None
    ) -> None:
        self.playback: Final = Playback(speaker.sample_rate)
        self.heard = ""
        self.error: BaseException | None = None
        self.interrupted = False
        self._hear: Final = hear
        self._answer: Final = answer
        self._speaker: Final = speaker
        self._before = before
        self._pieces: Generator[str, None, None] | None = None
        self._thread: Final = threading.Thread(target=self._run, name="llmasos-voice-reply", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be silent at once, and end the request: at once where the model is waited for by nobody, else with its next piece."""
        self.interrupted = True
        self.playback.stop()
        if (pieces := self._pieces) is not None:
            with contextlib.suppress(ValueError):  # it is being read just now: its reader closes it
                pieces.close()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    @property
    def over(self) -> bool:
        """Nothing is computed and nothing played any more."""
        return self.playback.over and not self._thread.is_alive()

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before.join()
                self._before = None  # else every turn would keep all before it
            self.heard = self._hear()
            if self.heard and not self.interrupted:
                self._speak()
        except BaseException as error:
            self.error = error
        finally:
            self.playback.end()

    def _speak(self) -> None:
        with contextlib.closing(self._answer(self.heard)) as self._pieces:
            for clause in clauses(self._until_stopped(self._pieces)):
                sound = np.concatenate([np.zeros(0, np.float32), *self._speaker.speak(clause)])
                if not self.playback.put(clause, sound):
                    return

    def _until_stopped(self, pieces: Generator[str, None, None]) -> Iterator[str]:
        for piece in pieces:
            if self.interrupted:
                return
            yield piece
