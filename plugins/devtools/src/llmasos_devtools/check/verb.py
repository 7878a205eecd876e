"""The verb ``plugins check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import attrs
import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_devtools.check.conformance import check_installed, check_package, read_package
from llmasos_hookspecs import Command, CommandContext
from llmasos_hookspecs.json_object import read_object


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def check(
        what: Annotated[str, typer.Argument(help="An installed component, or the folder of a plugin package.")],
        example: Annotated[str | None, typer.Option("--example", help="Inputs of a task that cannot be made up, as JSON.")] = None,
        as_json: o.JsonOption = False,
    ) -> int:
        """Try a plugin against the contract: light import, hooks, options, behaviour, and the package's own tests."""
        path = Path(what)
        if path.is_dir() or path.name != what:
            tests = check_package(read_package(path.resolve()), context.python)
        else:
            tests = check_installed(context.find(what), context.python, None if example is None else read_object(example, "--example"))
        counts = {outcome: sum(test.outcome == outcome for test in tests) for outcome in ("passed", "failed", "skipped")}
        if not as_json:
            shown: dict[tuple[str, str, str], list[str]] = {}
            for test in tests:
                if test.outcome != "passed":
                    shown.setdefault((test.subject, test.outcome, test.message), []).append(test.test)
            if shown:
                rows = [
                    [s, names[0] + (f" and {len(names) - 1} more" if names[1:] else ""), out, why] for (s, out, why), names in shown.items()
                ]
                context.table(["component", "test", "outcome", "why"], rows)
        context.answer(
            {"counts": counts, "tests": [attrs.asdict(test) for test in tests]},
            ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) + ".",
            as_json=as_json,
        )
        return 1 if counts["failed"] else 0

    return verb("check", check)
