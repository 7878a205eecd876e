"""The verbs of ``logs``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import attrs
import typer

from llmasos_command_kit import options as o
from llmasos_conversations.store import ConversationStore
from llmasos_hookspecs import Command, CommandContext, RequestError

Count = Annotated[int, typer.Option("--count", "-n", min=1, help="How many at most.")]


def make(context: CommandContext) -> Command:
    """The group of verbs."""
    app = typer.Typer(
        help="The conversations that run, chat and the task chat kept.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    store = ConversationStore.chosen()

    @app.command("list")
    def list_conversations(count: Count = 20, as_json: o.JsonOption = False) -> None:
        """List the conversations used last, the newest first."""
        found = store.summaries(count)
        if as_json:
            context.answer([attrs.asdict(each) for each in found], as_json=True)
        elif found:
            rows = [[each.name, each.updated, each.model or "?", str(each.turns), " ".join(each.first.split())] for each in found]
            context.table(["conversation", "last used (UTC)", "model", "turns", "begins"], rows)
        else:
            context.answer(None, "No conversation is kept.")

    @app.command("show")
    def show(
        conversation: Annotated[str | None, typer.Argument(help="Its name or number, as list has it; left out: the last one.")] = None,
        reply: Annotated[bool, typer.Option("--reply", "-r", help="Only the last reply.")] = False,
        as_json: o.JsonOption = False,
    ) -> None:
        """Show a conversation whole."""
        found = store.last() if conversation is None else store.find(conversation)
        if found is None:
            raise RequestError("No conversation is kept that could be shown.")
        replies = [each["content"] for each in found.messages if each["role"] == "assistant"]
        if as_json:
            context.answer(attrs.asdict(found), as_json=True)
        elif reply:
            context.answer(None, replies[-1] if replies else "")
        elif found.form == "text":
            context.answer(None, "".join(each["content"] for each in found.messages))
        else:
            for each in (*found.instructions(), *found.messages):
                images = "".join(f"[image {digest[:12]}] " for digest in each.get("images", ()))
                context.answer(None, f"{each['role']}: {images}{each['content']}")

    @app.command("search")
    def search(
        words: Annotated[list[str], typer.Argument(help="Words, or parts of words, that a message holds all of.")],
        count: Count = 20,
        as_json: o.JsonOption = False,
    ) -> int:
        """Find messages by their words; exits with 1 where none is found."""
        found = store.search(" ".join(words), count)
        if as_json:
            context.answer([attrs.asdict(each) for each in found], as_json=True)
        elif found:
            context.table(
                ["conversation", "last used (UTC)", "who", "says"],
                [[each.conversation, each.updated, each.role, each.excerpt] for each in found],
            )
        else:
            context.answer(None, "No message is found.")
        return 0 if found else 1

    @app.command("clear")
    def clear(
        conversation: Annotated[
            str | None, typer.Argument(help="One to remove, by name or number; left out: all that have no name.")
        ] = None,
        days: Annotated[float | None, typer.Option("--days", min=0, help="Only those last used longer ago than this many days.")] = None,
        named: Annotated[bool, typer.Option("--named", help="Those that have a name, too.")] = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
        as_json: o.JsonOption = False,
    ) -> None:
        """Remove conversations, and their text from the disk. Those with a name stay unless --named, or named here."""
        if conversation is not None and (days is not None or named):
            raise RequestError("Name one conversation, or say with --days and --named which of all go, and not both.")
        if conversation is not None:
            store.delete(conversation)
            gone = 1
        else:
            if not (yes or as_json):
                typer.confirm(f"Remove {'all' if named else 'all unnamed'} conversations{_older(days)}?", abort=True, err=True)
            before = None if days is None else datetime.now(UTC) - timedelta(days=days)
            gone = store.clear(before=before, named=named)
        context.answer({"removed": gone}, f"Removed {gone} conversation{'' if gone == 1 else 's'}.", as_json=as_json)

    @app.command("on")
    def switch_on(as_json: o.JsonOption = False) -> None:
        """Keep every conversation from now on, as at first."""
        store.keep_all(True)
        status(as_json)

    @app.command("off")
    def switch_off(as_json: o.JsonOption = False) -> None:
        """Keep only conversations that are given a name from now on."""
        store.keep_all(False)
        status(as_json)

    @app.command("status")
    def status(as_json: o.JsonOption = False) -> None:
        """Say whether conversations are kept, how many there are, and where."""
        keeps, count = store.keeps_all, len(store.summaries())
        kept = "Every conversation is kept" if keeps else "Only conversations with a name are kept"
        context.answer(
            {"keeps_all": keeps, "conversations": count, "path": str(store.path)}, f"{kept}; {count} are in {store.path}.", as_json=as_json
        )

    return typer.main.get_command(app)


def _older(days: float | None) -> str:
    return "" if days is None else f" last used more than {days:g} days ago"
