"""The command line ``llmasos``. Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted."""

from __future__ import annotations

import io
import sys
from typing import Any


def main() -> None:
    """Run the command line and exit the process; errors are one sentence, never a traceback."""
    try:
        code = invoke()
    except KeyboardInterrupt:  # while the program itself is being read
        sys.stderr.write("Interrupted.\n")
        code = 130
    sys.exit(code)


def invoke(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    import warnings

    from typer.exceptions import Abort, TyperException

    from llmasos.cli.app import command
    from llmasos.cli.console import print_error, print_note
    from llmasos.cli.foreign_options import in_our_words
    from llmasos.cli.installed import HELP, INTERRUPTED
    from llmasos_hookspecs import ConfigError, LLMasOSError, RequestError

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print_note(str(message))

    warnings.showwarning = show
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character gets its number, and no traceback
    # A reader of the pipe that goes away (head, say) ends the command without a word and with 1; typer sees to it.
    try:
        result = command().main(arguments, prog_name="llmasos", standalone_mode=False, help_option_names=HELP)
    except TyperException as error:
        in_our_words(error)
        show_usage = getattr(error, "show", None)
        if show_usage is not None:
            show_usage()
        else:
            print_error(error.format_message())
        return error.exit_code
    except (Abort, KeyboardInterrupt):
        print_note("Interrupted.")
        return INTERRUPTED
    except (ConfigError, RequestError) as error:
        print_error(_with_cure(error))
        return 2
    except LLMasOSError as error:
        print_error(_with_cure(error))
        return 1
    return result if isinstance(result, int) else 0


def _with_cure(error: Exception) -> str:
    """What an error says; where it names a package to install that no index has yet, what works in a clone of the repository."""
    sentence = str(error)
    if "pip install " not in sentence:
        return sentence
    from llmasos_fetch_kit.clone import clone, in_this_clone

    return in_this_clone(sentence, clone())
