"""Every error that LLMasOS raises on purpose.

Each message is one sentence that says what is wrong, where, and how to fix it. Plugins raise these too; core never shows a traceback for
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmasos_hookspecs.access import Remaining


class LLMasOSError(Exception):
    """The base of every error that LLMasOS or one of its plugins raises on purpose.

    Its text is one line of characters that can be printed: messages hold names and values from files of strangers, and a line break or an
    escape sequence in one would break a log, or a terminal obey it.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.isprintable() else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class ConfigError(LLMasOSError, ValueError):
    """A config value is unknown, of the wrong type, or out of range.

    ``path`` is the dotted place of the value, such as ``accelerate[1].bits``; empty where the whole file is meant.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class PluginError(LLMasOSError):
    """A plugin is missing, ambiguous, broken, or breaks the contract."""


class SourceError(LLMasOSError):
    """A model reference does not exist, or its files could not be fetched or do not have the expected digest."""


class CheckpointError(LLMasOSError):
    """A model file is missing, truncated, corrupt, unsafe, or of a form that is not supported."""


class UnsupportedModel(CheckpointError):
    """The file is valid, but the component does not support its format or architecture."""


class RequestError(LLMasOSError, ValueError):
    """A request cannot be served as asked: bad sampling values, an empty prompt, unknown task inputs.

    ``param`` is the argument that is meant, such as ``temperature``; empty where it is none, or several.
    """

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(RequestError):
    """The request names a model that the pipeline does not have."""


class ContextLengthExceeded(RequestError):
    """The prompt, or the prompt with the new tokens asked for, is longer than the model's context."""


class Rejected(LLMasOSError):
    """The scheduler refused the request at admission.

    ``retry_after`` is in seconds; None where trying again cannot help.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QuotaExceeded(Rejected):
    """The client has used what its access allows; ``retry_after`` says when it may use more.

    ``left`` is what it has left, where the access control tells.
    """

    def __init__(self, message: str, retry_after: float | None = None, left: Remaining | None = None) -> None:
        super().__init__(message, retry_after)
        self.left = left


class NotAuthenticated(LLMasOSError):
    """A client showed no credentials, or none that are known."""


class NotAllowed(LLMasOSError):
    """A client may not do what it asked for."""


class Blocked(LLMasOSError):
    """A guard blocked a text.

    ``stage`` is where: ``input``, ``output``, ``tool_call`` or ``tool_result``; ``reason`` is the guard's; ``text`` is what of an answer
    was released before.
    """

    def __init__(self, message: str, *, stage: str = "", reason: str = "", text: str = "") -> None:
        super().__init__(message)
        self.stage = stage
        self.reason = reason
        self.text = text


class Cancelled(LLMasOSError):
    """The request was cancelled before it finished."""


class ModelClosed(LLMasOSError):
    """The model was used after ``close()``."""


class CapacityExceeded(LLMasOSError):
    """The engine has no room for this step or slot; a smaller step can succeed, and no slot has changed."""


class EngineFailed(LLMasOSError):
    """The engine is broken and must be rebuilt; its slots are lost."""


class AccelerationError(LLMasOSError):
    """An acceleration plan cannot work, or a stage of it failed.

    ``problems`` holds every problem found, one sentence each.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class ResourceError(LLMasOSError):
    """A memory budget is too small for what was asked, and waiting would not help."""


class ApartError(LLMasOSError):
    """A function that ran in a child process failed, or exceeded a limit.

    ``kind`` is the class name of its error, or ``Timeout``, ``MemoryError`` or ``Killed``; ``sentence`` is what it said.
    """

    def __init__(self, sentence: str, kind: str = "Exception") -> None:
        super().__init__(sentence)
        self.kind = kind
        self.sentence = sentence

    @property
    def stopped(self) -> bool:
        """Whether it exceeded a limit or crashed, rather than raise an error."""
        return self.kind in ("Timeout", "MemoryError", "RecursionError", "Killed")
