"""Wheels of this repository and of made-up plugins, and an environment that has nothing but core."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from core.tests.cli.fork_server import LLMASOS, RESCAN, WARM_LLMASOS, ForkServer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmasos_hookspecs import GROUPS

ROOT = Path(__file__).resolve().parents[2]
#: The libs that core requires.
LIBS = tuple(
    re.split(r"[^\w-]", each)[0].removeprefix("llmasos-").replace("-", "_")
    for each in tomllib.loads((ROOT / "core" / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    if each.startswith("llmasos-") and not each.startswith("llmasos-hookspecs")
)

# A loader whose next token is always the last one plus one, so that its answer is known: abc -> defg.
COUNTING_LOADER = """
    import numpy
    from llmasos_hookspecs import Component, EngineInfo, hookimpl

    class Engine:
        def __init__(self, limits):
            self.free = list(range(limits.max_sequences))
            self.info = EngineInfo(
                vocab_size=256, context_length=512, max_sequences=limits.max_sequences, weight_bytes=1, kv_bytes_per_token=0
            )

        def open(self): return self.free.pop()
        def close(self, slot): self.free.append(slot)
        def truncate(self, slot, length): pass
        def fork(self, slot): return self.free.pop()
        def shutdown(self): pass

        def step(self, rows):
            answers = []
            for row in rows:
                tokens = {"last": row.tokens[-1:], "all": row.tokens, "none": []}[row.want]
                logits = numpy.zeros((len(tokens), 256), dtype=numpy.float32)
                for i, token in enumerate(tokens):
                    logits[i, (token + 1) % 256] = 100
                answers.append(logits)
            return answers

    @hookimpl
    def llmasos_component():
        return Component(summary="Counts.", formats=("huggingface", "neutral"), architectures=("*",))

    @hookimpl
    def llmasos_load(checkpoint, options, context):
        return Engine(context.limits)
"""


#: Runs the build backend of all packages, hatchling, in one process, where pip would start two for each.
BUILD = """
import os, sys
from hatchling.build import build_wheel

for source in sys.argv[2:]:
    os.chdir(source)
    build_wheel(sys.argv[1])
"""


#: pip's command, and what it imports to install wheels and to remove them.
PIP = "import sys; from pip._internal.cli.main import main; sys.exit(main())"
WARM_PIP = """
import pip._internal.cli.main, pip._internal.commands.install, pip._internal.commands.uninstall
import pip._internal.operations.install.wheel, pip._internal.resolution.resolvelib.resolver
"""


def bare(home: Path) -> dict[str, str]:
    """The variables of a process in which nothing of the tests' own environment is found."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LLMASOS", "VIRTUAL_ENV"))}
    return {**kept, "LLMASOS_HOME": str(home)}


@attrs.frozen
class Environment:
    """A virtual environment with core alone, whose command and whose pip are imported once."""

    python: Path
    site: Path
    home: Path
    server: ForkServer

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its Python; whether that went well is for the caller to say."""
        return subprocess.run(
            [str(self.python), *arguments],
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=self.home,
            env=bare(self.home),
            timeout=600,
            check=False,
        )

    def pip(self, *arguments: str) -> None:
        compiled = ("--no-compile",) if arguments[0] == "install" else ()  # most modules of what core requires are never imported
        words = (*arguments, *compiled, "--quiet", "--disable-pip-version-check")
        done = self.server.said(*words, folder=self.home, code=PIP, env=bare(self.home))
        assert done.returncode == 0, done.stderr

    @contextlib.contextmanager
    def with_wheels(self, *wheels: Path) -> Iterator[None]:
        """Plugins that are there for a while: unpacked, which is all that pip does with a wheel of Python files, and then removed. Those
        that a test is about come and go by pip itself."""
        names = set[str]()
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as bundle:
                bundle.extractall(self.site)
                names |= {name.partition("/")[0] for name in bundle.namelist()}
        try:
            yield
        finally:
            for path in (self.site / name for name in names):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def code(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Code of Python's."""
        return self.server.said(*arguments, folder=self.home, code=RESCAN + code, env=bare(self.home))

    def llmasos(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command."""
        return self.code(LLMASOS, *arguments)

    def listed(self) -> dict[str, Any]:
        """What ``llmasos plugins list --json`` says."""
        done = self.llmasos("plugins", "list", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def build_wheels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Path]], dict[str, Path]]:
    """Builds the wheels of packages in their folders; by distribution name, as files spell it."""

    def build(sources: Iterable[Path]) -> dict[str, Path]:
        folder = tmp_path_factory.mktemp("wheels")
        subprocess.run([sys.executable, "-c", BUILD, str(folder), *map(str, sources)], check=True, timeout=1200, stdout=subprocess.PIPE)
        return {path.name.partition("-")[0]: path for path in folder.iterdir()}

    return build


@pytest.fixture(scope="session")
def wheels(build_wheels: Callable[[Iterable[Path]], dict[str, Path]]) -> dict[str, Path]:
    """Wheels of hookspecs, core with the libs that it requires, two plugins with a lib that they need, and every example."""
    sources = [
        ROOT / "hookspecs",
        *(ROOT / "libs" / name for name in LIBS),
        ROOT / "core",
        ROOT / "libs" / "task_kit",
        ROOT / "plugins" / "command_batch",
        ROOT / "plugins" / "command_plugins",
        ROOT / "plugins" / "suite_quality",
        *sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml")),
    ]
    return {name.replace("_", "-"): path for name, path in build_wheels(sources).items()}


def required(*names: str) -> list[Distribution]:
    """Other projects' distributions among these and all that they require."""
    left, found = list(names), dict[str, Distribution]()
    while left:
        if (name := canonicalize_name(left.pop())) not in found:
            found[name] = distribution(name)
            needs = map(Requirement, found[name].requires or ())
            left += [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    return [each for name, each in found.items() if not name.startswith("llmasos")]


def site_of(folder: Path) -> Path:
    """Where the packages of a virtual environment lie."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def environment_of(folder: Path, *names: str) -> Path:
    """The Python of a virtual environment with what these distributions require of others, linked or copied out of the tests' own
    environment: pip would fetch and unpack it all again. Nothing writes into a file that is there: pip and Python put a new one in its
    place."""
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = site_of(folder)
    for one in required(*names):
        root = str(one.locate_file(""))
        for file in {str(file) for file in one.files or () if ".." not in file.parts}:
            source, target = os.path.join(root, file), os.path.join(site, file)
            if os.path.isfile(source):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:  # another disk
                    shutil.copy2(source, target)
    return python


@pytest.fixture(scope="session")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """It has pip, too."""
    folder = tmp_path_factory.mktemp("environment")
    python = environment_of(folder / "venv", "pip", "llmasos")
    home = folder / "home"
    home.mkdir()
    libs = [str(wheels[f"llmasos-{name.replace('_', '-')}"]) for name in LIBS]
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*install, str(wheels["llmasos-hookspecs"]), *libs, str(wheels["llmasos"])], check=True, cwd=home, env=bare(home))
    with ForkServer(bare(home), tmp_path_factory.mktemp("streams"), WARM_LLMASOS + WARM_PIP, python) as server:
        yield Environment(python, site_of(folder / "venv"), home, server)


@pytest.fixture(scope="session")
def make_wheel(tmp_path_factory: pytest.TempPathFactory):
    """Builds the wheel of a plugin with one module, in a folder of its own."""

    def make(
        distribution: str, kind: str, name: str, code: str, *, version: str = "1.0", requires: tuple[str, ...] = ("llmasos-hookspecs",)
    ) -> Path:
        module = distribution.replace("-", "_")
        path = tmp_path_factory.mktemp("made") / f"{module}-{version}-py3-none-any.whl"
        info = f"{module}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        with zipfile.ZipFile(path, "w") as bundle:
            bundle.writestr(f"{module}.py", textwrap.dedent(code))
            bundle.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{needs}\n")
            bundle.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            bundle.writestr(f"{info}/entry_points.txt", f"[{GROUPS[kind]}]\n{name} = {module}\n")
            bundle.writestr(f"{info}/RECORD", "")
        return path

    return make


@pytest.fixture(scope="module")
def counting(environment: Environment, make_wheel) -> Iterator[None]:
    """That loader, installed."""
    with environment.with_wheels(make_wheel("counting", "loader", "counting", COUNTING_LOADER)):
        yield


@pytest.fixture(scope="module")
def counting_lifo(environment: Environment, make_wheel, wheels: dict[str, Path]) -> Iterator[None]:
    """That loader and the scheduler ``lifo``, installed: what it takes to run a model."""
    with environment.with_wheels(make_wheel("counting", "loader", "counting", COUNTING_LOADER), wheels["sched-lifo"]):
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of one tiny random layer, with a tokenizer of single bytes."""
    folder = tmp_path_factory.mktemp("checkpoint")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "eos_token_id": 255,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (256, 8),
        "model.norm.weight": (8,),
        f"{layer}.input_layernorm.weight": (8,),
        f"{layer}.post_attention_layernorm.weight": (8,),
        f"{layer}.self_attn.q_proj.weight": (8, 8),
        f"{layer}.self_attn.k_proj.weight": (4, 8),
        f"{layer}.self_attn.v_proj.weight": (4, 8),
        f"{layer}.self_attn.o_proj.weight": (8, 8),
        f"{layer}.mlp.gate_proj.weight": (16, 8),
        f"{layer}.mlp.up_proj.weight": (16, 8),
        f"{layer}.mlp.down_proj.weight": (8, 16),
    }
    write_safetensors(folder / "model.safetensors", shapes)
    return folder


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Random float32 tensors of the given shapes."""
    random, header, body = np.random.default_rng(0), {}, b""
    for name, shape in shapes.items():
        content = random.standard_normal(shape).astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
