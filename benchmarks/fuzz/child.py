"""One target in a process of its own: ``python -m benchmarks.fuzz.child TARGET FOLDER``; the runner starts it.

Errors and strayed readers are kept as findings, and the run goes on. A hang, a crash and an abort end the process; the runner reads from
``state`` which input it was, and from ``ended.txt`` where in Python it was.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

#: What coverage is counted in.
INSTRUMENTED: Final = (
    "llmasos",
    "llmasos_hookspecs",
    "llmasos_chat_templates",
    "llmasos_conversations",
    "llmasos_checkpoint_kit",
    "llmasos_huggingface_folder",
    "llmasos_tokenizing",
    "llmasos_format_gguf",
    "llmasos_format_legacy",
    "llmasos_format_quantized",
    "llmasos_decoder_kit",
    "llmasos_fetch_kit",
    "llmasos_backend_onnx",
    "llmasos_backend_torch",
    "llmasos_backend_tf",
    "jinja2",
)
#: Address space that a target may reserve over what it has once its seeds were read: what asks for more gets a MemoryError.
ROOM: Final = 2 << 30
#: How many times as long as its processor time a case may take by the clock: on a busy machine a case waits for its turn.
WAITS: Final = 6
#: One input in so many is made of a seed. libFuzzer keeps the smallest of the inputs that cover the same branches, so that of several files
#: which are all sound it would change one alone, and with time one that is hardly a file of the kind.
FROM_SEEDS: Final = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("folder", type=Path, help="holds corpus, findings and state")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, help="end after so many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without atheris: random changes of the seeds")
    parser.add_argument("--replay", type=Path, help="read this one input; what it does is printed")
    given = parser.parse_args()
    sys.dont_write_bytecode = True  # written where the reader of a file must not write
    with tempfile.TemporaryDirectory(prefix="llmasos-fuzz-") as scratch:
        tempfile.tempdir = str(Path(scratch) / "scratch")
        os.environ["LLMASOS_HOME"] = str(Path(scratch) / "scratch" / "home")
        guided = not given.plain and given.replay is None
        with _instrumented() if guided else contextlib.nullcontext():
            target = _made(given.target, Path(scratch))
            for seed in target.seeds:
                target.warm(seed)
        _bound_memory()
        if given.replay is not None:
            _watched(target, sys.stderr)(given.replay.read_bytes())
            print("Nothing was found.")
            return
        run = _Run(target, given.folder)
        if guided:
            _guide(target, run, given)
        else:
            _vary(target, run, given)


class _Run:
    """Runs inputs one by one; what they do wrong is kept."""

    def __init__(self, target: Any, folder: Path) -> None:
        from benchmarks.fuzz.state import State

        self._read = _watched(target, (folder / "ended.txt").open("w"))
        self._folder = folder / "findings"
        self.state = State(folder / "state")

    def __call__(self, data: bytes) -> None:
        from benchmarks.fuzz.findings import keep, kind_of

        self.state.begin(data)
        try:
            self._read(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic of a native library is no Exception
            keep(self._folder, kind_of(error), data, "".join(traceback.format_exception(error)))


def _made(name: str, scratch: Path) -> Any:
    from benchmarks.fuzz.target import Room
    from benchmarks.fuzz.targets import make_target

    room = Room(folder=scratch / "model", scratch=scratch / "scratch")
    room.folder.mkdir()
    room.scratch.mkdir()
    return make_target(name, room)


def _instrumented() -> Any:
    import atheris

    return atheris.instrument_imports(include=list(INSTRUMENTED))


def _bound_memory() -> None:
    """Keep the machine from what a file asks for, where the system can."""
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii")
    except (ImportError, OSError):
        return
    bound = (int(status.partition("VmSize:")[2].split(maxsplit=1)[0]) << 10) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watched(target: Any, place: TextIO) -> Callable[[bytes], None]:
    """The target's function. Where it takes more processor time than it may, or waits, where it was is written to ``place`` and the
    process ends, by a signal or with 1. Time is the process's on all its threads: seconds by the clock say nothing on a busy machine.
    """
    faulthandler.enable(place)  # of a native library that crashes or aborts
    counts = hasattr(signal, "setitimer")
    if counts:
        faulthandler.register(signal.SIGPROF, file=place, chain=True)  # behind it stands the system's own handler, which ends the process

    def read(data: bytes) -> None:
        faulthandler.dump_traceback_later(WAITS * target.seconds, exit=True, file=place)
        if counts:
            signal.setitimer(signal.ITIMER_PROF, target.seconds)
        try:
            target.one(data)
        finally:
            if counts:
                signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()

    return read


def _guide(target: Any, run: _Run, given: argparse.Namespace) -> None:
    import hashlib

    import atheris

    corpus = given.folder / "corpus"
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    longest = 4 * max(map(len, target.seeds)) + 1024
    flags = [f"-max_total_time={given.seconds}", f"-max_len={longest}", "-rss_limit_mb=0", "-print_final_stats=1", "-len_control=0"]
    flags += [f"-runs={given.runs}"] if given.runs is not None else []
    flags += [f"-handle_{signal}=0" for signal in ("segv", "bus", "abrt", "ill", "fpe")]  # Python's handlers say where in Python it was
    flags += [f"-artifact_prefix={given.folder}/", f"-seed={given.seed + 1}"]

    def mutated(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return target.mutated(data if rng.randrange(FROM_SEEDS) else rng.choice(target.seeds), limit, seed)

    atheris.Setup([sys.argv[0], *flags, str(corpus)], run, custom_mutator=mutated)
    atheris.Fuzz()


def _vary(target: Any, run: _Run, given: argparse.Namespace) -> None:
    rng = random.Random(given.seed)
    end = time.monotonic() + given.seconds
    longest = 4 * max(map(len, target.seeds)) + 1024
    for seed in target.seeds:
        run(seed)
    while time.monotonic() < end and (given.runs is None or run.state.runs < given.runs):
        run(target.mutated(rng.choice(target.seeds), longest, rng.getrandbits(32)))


if __name__ == "__main__":
    main()
