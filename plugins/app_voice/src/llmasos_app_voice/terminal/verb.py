"""The verb ``voice``: its options, and the conversation that they describe."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmasos_command_kit import options as o
from llmasos_command_kit.verb import verb
from llmasos_hookspecs import Command, CommandContext, RequestError

if TYPE_CHECKING:
    from llmasos_app_voice.talking.session import Microphone, Output, Turn

#: In place of a file: the microphone, or the loudspeaker.
_DEVICE = "device"


def make(context: CommandContext) -> Command:
    """The verb with its options."""

    def voice(
        listen: Annotated[
            str, typer.Option("--listen", help="A WAV file to listen to, or - for a WAV stream on standard input; device: the microphone.")
        ] = _DEVICE,
        say: Annotated[
            str,
            typer.Option("--say", help="A WAV file for the answers, or - for a WAV stream on standard output; device: the loudspeaker."),
        ] = _DEVICE,
        system: o.SystemOption = None,
        language: Annotated[
            str, typer.Option("--language", help="ISO 639 code of what is spoken; left out: as the transcriber finds.")
        ] = "",
        no_interrupt: Annotated[
            bool, typer.Option("--no-interrupt", help="Hear nothing while speaking: for a loudspeaker that the microphone hears.")
        ] = False,
        model: o.ModelOption = None,
        preset: o.PresetOption = None,
        max_new_tokens: o.MaxNewTokensOption = 256,
        temperature: o.TemperatureOption = None,
        top_p: o.TopPOption = None,
        top_k: o.TopKOption = None,
        seed: o.SeedOption = None,
        config: o.ConfigOption = None,
        settings: o.SetOption = None,
        loader: o.LoaderOption = None,
        scheduler: o.SchedulerOption = None,
        as_json: o.JsonOption = False,
        quiet: o.QuietOption = False,
    ) -> None:
        """Talk with a model: speak, pause, and it answers aloud; speak again, and it stops. Ctrl-C ends the conversation."""
        from llmasos_app_voice.talking.conversation import SYSTEM, Conversation
        from llmasos_app_voice.talking.detector import SpeechDetector
        from llmasos_app_voice.talking.session import Session

        given = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        sampling = {name: value for name, value in given.items() if value is not None}
        changes = o.with_preset(o.with_scheduler(settings, scheduler), preset)
        turns: list[Turn] = []

        def told(turn: Turn) -> None:
            turns.append(turn)
            if say == "-":  # standard output is the sound
                context.note(f"> {turn.heard}\n{turn.said}")
            elif not as_json:
                context.answer(None, f"> {turn.heard}\n{turn.said}{' [interrupted]' if turn.interrupted else ''}")

        if say == "-" and as_json:
            raise RequestError("--say - writes the sound to standard output, and --json the turns; name a file for one of them.")
        with (
            contextlib.ExitStack() as opened,
            context.model(model, loader=loader, config=config, settings=changes, quiet=quiet) as answering,
        ):
            microphone = _microphone(listen, opened)
            transcriber, speaker = answering.component("transcriber").make(), answering.component("speaker").make()
            answering.check_sampling(**sampling)
            conversation = Conversation(
                answering, system=SYSTEM if system is None else system, max_new_tokens=max_new_tokens or 256, **sampling
            )
            _ = answering.context_length  # loads the model: what is wrong with it is told before anybody speaks
            session = Session(
                detector=SpeechDetector(),
                transcriber=transcriber,
                speaker=speaker,
                answer=conversation.answer,
                told=told,
                language=language,
                interruptible=not no_interrupt,
            )
            output = _output(say, speaker.sample_rate, opened)
            with contextlib.suppress(KeyboardInterrupt):  # so a conversation with a microphone ends
                session.run(microphone, output)
        if as_json:
            context.answer([_plain(turn) for turn in turns], as_json=True)

    return verb("voice", voice)


def _plain(turn: Turn) -> dict[str, Any]:
    return {"heard": turn.heard, "said": turn.said, "interrupted": turn.interrupted, "at": round(turn.at, 3)}


def _microphone(listen: str, opened: contextlib.ExitStack) -> Microphone:
    from llmasos_app_voice.talking.devices import DeviceMicrophone
    from llmasos_app_voice.talking.files import WavMicrophone

    if listen == _DEVICE:
        return opened.enter_context(DeviceMicrophone())
    if listen == "-":
        return WavMicrophone(sys.stdin.buffer, "Standard input")
    return opened.enter_context(WavMicrophone.opened(Path(listen)))


def _output(say: str, rate: int, opened: contextlib.ExitStack) -> Output:
    from llmasos_app_voice.talking.devices import DeviceOutput
    from llmasos_app_voice.talking.files import WavFile, WavPipe

    if say == _DEVICE:
        return opened.enter_context(DeviceOutput(rate))
    if say == "-":
        return opened.enter_context(WavPipe(rate))
    return opened.enter_context(WavFile(Path(say), rate))
