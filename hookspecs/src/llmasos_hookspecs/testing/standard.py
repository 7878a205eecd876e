"""Standard tests: a subclass inherits all of them, and may change one only with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from llmasos_hookspecs.errors import PluginError

F = TypeVar("F", bound=Callable[..., Any])

_REASON = "__overrides_standard__"


def overrides_standard(reason: str) -> Callable[[F], F]:
    """Mark a method that replaces a standard test, and say why: ``@overrides_standard("the engine cannot fork")``."""
    if not isinstance(reason, str) or not reason.strip():
        raise PluginError('overrides_standard needs a reason: @overrides_standard("the engine cannot fork").')

    def mark(function: F) -> F:
        setattr(function, _REASON, reason)
        return function

    return mark


class StandardTests:
    """The base of the conformance classes.

    A class that lists itself with ``standard=True`` defines tests of the contract. Any other subclass is a plugin's, and is refused
    when it deletes or replaces one of them without ``overrides_standard``.
    """

    standard_tests: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, *, standard: bool = False, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if standard:
            own = {name: value for name, value in vars(cls).items() if name.startswith("test_")}
            cls.standard_tests = {**cls.standard_tests, **own}
            return
        problems = unexplained_changes(cls)
        if problems:
            raise PluginError(" ".join(problems))

    def test_every_standard_test_is_there(self) -> None:
        """No standard test was removed after the class was made."""
        problems = unexplained_changes(type(self))
        assert not problems, " ".join(problems)


StandardTests.standard_tests = {"test_every_standard_test_is_there": StandardTests.test_every_standard_test_is_there}


def unexplained_changes(cls: type[StandardTests]) -> list[str]:
    """One sentence for each standard test that ``cls`` lacks or replaces without a reason."""
    problems = []
    for name, standard in cls.standard_tests.items():
        found = getattr(cls, name, None)
        if found is standard or getattr(found, _REASON, None):
            continue
        done = "replaces" if callable(found) else "takes away"
        problems.append(
            f'{cls.__name__} {done} the standard test {name}; inherit it, or mark the replacement with @overrides_standard("the reason").'
        )
    return problems
