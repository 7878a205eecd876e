"""Accelerators composed by config, run on every backend, and read by the tools of others."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmasos
from llmasos.cli import invoke
from llmasos.compose.formats import open_model
from llmasos.system.discovery import registry
from llmasos_hookspecs import AccelerationError, QuantizedTensor
from llmasos_hookspecs.testing import ReferenceDecoder, tiny_checkpoint

pytestmark = pytest.mark.slow

TOKENS = np.random.default_rng(8).integers(0, 256, 60).tolist()

#: A third-party stage between stages of this project.
STAGES = (
    {"use": "prune", "method": "layers", "drop": 1, "windows": 4, "length": 64},
    {"use": "clip", "deviations": 3.0},
    {"use": "distill", "steps": 10, "windows": 8, "held_out": 2, "length": 64, "evaluate_every": 5},
    {"use": "quant", "bits": 8, "group": 32},
)


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    p, q = (logits - logits.max(axis=1, keepdims=True) for logits in (expected.astype(np.float64), found.astype(np.float64)))
    p, q = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) for logits in (p, q))
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


@pytest.fixture
def invoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The command line in this process, which has imported the frameworks, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = invoke([*arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The example accelerator ``clip``, installed where only these tests find it."""
    site = tmp_path_factory.mktemp("site")
    example = Path(__file__).parents[1] / "examples" / "accel_clip"
    project = tomllib.loads((example / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (group,) = project["entry-points"]
    info = site / f"accel_clip-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"][group].items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(example / "src")
        patch.syspath_prepend(site)
        registry().rescan()
        yield
    registry().rescan()


@pytest.fixture(scope="module")
def accelerated(clip: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model after all four stages."""
    root = tmp_path_factory.mktemp("accelerated")
    tiny_checkpoint("qwen2", folder=root / "model", num_hidden_layers=3)
    report = llmasos.accelerate(root / "model", STAGES, output=root / "out", measure=False)
    assert [stage.name for stage in report.stages] == ["prune", "clip", "distill", "quant"]
    return root / "out"


@pytest.mark.parametrize("loader", ["onnx", "torch", "tf", "openvino"])
def test_four_stages_of_one_config_run_on_every_backend(accelerated: Path, loader: str) -> None:
    """The model is loaded without its accelerators, each backend predicts what the reference predicts, and the same when it loads again."""
    checkpoint = open_model(accelerated)
    assert checkpoint.decoder.num_layers == 2
    assert isinstance(checkpoint.tensor("model.layers.1.mlp.up_proj.weight"), QuantizedTensor)
    found = []
    for _ in range(2):
        with llmasos.load_model(accelerated, loader=loader) as model:
            found.append(model.logits(TOKENS))
    assert divergence(ReferenceDecoder(checkpoint).logits(TOKENS), found[0]) < 0.02
    np.testing.assert_array_equal(*found)


def test_the_config_of_a_pipeline_accelerates_and_finds_the_result_again(accelerated: Path, tmp_path: Path) -> None:
    """The same stages in a config give the same weights; nothing is made twice."""
    report = llmasos.accelerate(accelerated.parent / "model", STAGES, output=tmp_path / "again", measure=False)
    assert [stage.cached for stage in report.stages] == [True] * 4
    assert open_model(tmp_path / "again").digest == open_model(accelerated).digest
    config = {"model": {"source": str(accelerated.parent / "model")}, "accelerate": list(STAGES)}
    with llmasos.Pipeline.from_config(config) as pipeline, llmasos.load_model(accelerated) as model:
        np.testing.assert_array_equal(pipeline.model.logits(TOKENS), model.logits(TOKENS))


def test_what_cannot_work_is_refused_in_one_message_before_work_starts(tmp_path: Path) -> None:
    tiny_checkpoint("llama", folder=tmp_path / "model", intermediate_size=130)
    stages = [
        {"use": "prune", "method": "wanda", "pattern": "2:4"},
        {"use": "quant", "bits": 8},
        {"use": "quant", "bits": 4, "group": 48},
        {"use": "prune", "drop": 1},
        {"use": "quant", "bitts": 4},
    ]
    with pytest.raises(AccelerationError) as caught:
        llmasos.accelerate(tmp_path / "model", stages, output=tmp_path / "out")
    message = str(caught.value)
    for sentence in (
        'accelerate[0]: pattern = "2:4" needs columns in fours, and intermediate_size is 130',
        "accelerate[2]: The weights are quantised already",
        "accelerate[2]: group = 48 cannot be",
        "accelerate[3]: Pruning reads and changes float weights, and these are quantised",
        'accelerate[4].bitts is unknown; did you mean "bits"?',
    ):
        assert sentence in message
    assert len(caught.value.problems) == len([problem for problem in caught.value.problems if problem in message]) >= 5
    assert not (tmp_path / "out").exists()


@pytest.mark.peer
@pytest.mark.parametrize(
    "options",
    [
        {"bits": 8},
        pytest.param({"bits": 8, "group": 64, "head_group": 0}, marks=pytest.mark.long),
        pytest.param({"bits": 8, "symmetric": False, "group": 32}, marks=pytest.mark.long),
        pytest.param({"bits": 4, "method": "gptq", "windows": 4, "length": 64}, marks=pytest.mark.long),
        {"bits": 4, "method": "awq", "symmetric": False, "head_bits": 4, "windows": 4, "length": 64},
        {"bits": 4, "method": "rtn", "head_bits": 4},
        pytest.param({"bits": 8, "head_bits": 16}, marks=pytest.mark.long),
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
@pytest.mark.parametrize("case", [pytest.param("llama", marks=pytest.mark.long), "qwen2"])  # which is llama with biases
@pytest.mark.filterwarnings("ignore")  # other people's warnings are theirs
def test_transformers_reads_what_quant_writes(tmp_path: Path, case: str, options: dict[str, Any]) -> None:
    """transformers with the compressed-tensors package loads the folder and computes the same logits."""
    pytest.importorskip("compressed_tensors")
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tiny_checkpoint(case, folder=tmp_path / "model")
    llmasos.accelerate(tmp_path / "model", [{"use": "quant", **options}], output=tmp_path / "out", measure=False)
    # compressed-tensors 0.20 cannot leave packed zeros packed under transformers; it can dequantise them at load, all by one scheme.
    how = {} if options.get("symmetric", True) else {"quantization_config": transformers.CompressedTensorsConfig(dequantize=True)}
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32, **how)
    with torch.no_grad():
        found = model(torch.tensor([TOKENS])).logits[0].numpy()
    expected = ReferenceDecoder(open_model(tmp_path / "out")).logits(TOKENS)
    # transformers keeps scales in the weights' type; codes and zeros must be exact, so what remains is float32 arithmetic.
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_the_command_line_shows_the_table_and_writes_the_report(tmp_path: Path, llmasos_cli: Callable[..., Any]) -> None:
    tiny_checkpoint("llama", folder=tmp_path / "model")
    model, output = str(tmp_path / "model"), str(tmp_path / "out")
    ended = llmasos_cli("accelerate", model, "--stage", "quant:bits=8", "--output", output, "--windows", "2", "--length", "64")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines[:3]] == ["stage", "base", "quant"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert 0 < report["stages"][0]["measurement"]["quality"]["mean_kl"] < 0.05
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    refused = llmasos_cli("accelerate", model, "--stage", "quant:group=7", "--output", str(tmp_path / "two"))
    assert refused.returncode == 1
    assert "group = 7 cannot be" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_evaluate_writes_a_report_too(tmp_path: Path, invoked: Callable[..., Any]) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        tiny_checkpoint("llama", seed=seed, folder=tmp_path / name)
    run = (
        "evaluate",
        "one",
        "two",
        "--base",
        "one",
        "--loader",
        "onnx",
        "--output",
        "out",
        "--windows",
        "2",
        "--length",
        "64",
        "--no-speed",
    )
    ended = invoked(*run)
    assert ended.returncode == 0, ended.stderr
    assert [line.split("\t")[0] for line in ended.stdout.splitlines()] == ["model", "one", "two"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["models"]["one"]["quality"]["mean_kl"] < 1e-5 < report["models"]["two"]["quality"]["mean_kl"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "against one in float32" in page
    assert not any(word in page for word in ("http", "src=", "url(", "<script", "<link"))
    again = invoked(*run)
    assert again.returncode == 2
    assert "out exists already" in again.stderr


def test_a_text_of_ones_own_calibrates_and_evaluates(
    tmp_path: Path, invoked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, new_home: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("LLMASOS_HOME", str(new_home(tmp_path / "home")))
    tiny_checkpoint("llama", folder=tmp_path / "model")
    (tmp_path / "own.txt").write_text("\n\n".join(f"Paragraph {number} of a text that nobody else has." for number in range(40)))
    how = "--stage quant:bits=4,windows=2,length=64 --windows 2 --length 64 --json"
    run = ("accelerate", str(tmp_path / "model"), *how.split())
    reports = []
    for more in ((), ("--corpus", "own.txt")):
        ended = invoked(*run, *more)
        assert ended.returncode == 0, ended.stderr
        reports.append(json.loads(ended.stdout))
    assert [report["corpus"] for report in reports] == ["pydoc_data.topics", "own.txt"]
    assert [report["stages"][0]["cached"] for report in reports] == [False, False]
    perplexities = {report["base"]["quality"]["perplexity"] for report in reports}
    assert len(perplexities) == 2


def test_results_that_nobody_uses_are_removed(tmp_path: Path, llmasos_cli: Callable[..., Any], new_home: Callable[[Path], Path]) -> None:
    """Not before the process that made one has ended."""
    tiny_checkpoint("llama", folder=tmp_path / "model")
    home = {"LLMASOS_HOME": str(new_home(tmp_path / "home"))}
    made = llmasos_cli("accelerate", str(tmp_path / "model"), "--stage", "quant:bits=8", "--no-measure", "--json", **home)
    assert made.returncode == 0, made.stderr
    assert Path(json.loads(made.stdout)["path"]).exists()
    cleaned = llmasos_cli("models", "clean", "--json", **home)
    assert json.loads(cleaned.stdout)["freed"] > 0
    assert not Path(json.loads(made.stdout)["path"]).exists()


@pytest.mark.parametrize("loader", ["onnx", *(pytest.param(name, marks=pytest.mark.long) for name in ("torch", "tf"))])
def test_what_a_loader_rounds_is_measured_against_float32(tmp_path: Path, loader: str) -> None:
    """An option that rounds the model rounds neither the yardstick nor the figures of a run without it."""
    tiny_checkpoint("llama", folder=tmp_path / "model")
    key, exact = ("dtype", "float32") if loader == "torch" else ("precision", "fp32")
    loaders = [{"use": loader, key: value} for value in (exact, "int8")]
    reports = [
        llmasos.accelerate(tmp_path / "model", [{"use": "prune", "layers": [1]}], loader=each, windows=1, length=64) for each in loaders
    ]
    assert all(report.base is not None for report in reports)
    divergences = [report.base.quality.mean_kl for report in reports if report.base is not None]
    assert divergences[0] < 1e-6 < 1e-5 < divergences[1]
    assert reports[1].backend is not None
    assert reports[1].backend.endswith(f'with {key} = "int8"')


def test_evaluate_compares_a_model_with_its_base(tmp_path: Path) -> None:
    tiny_checkpoint("llama", folder=tmp_path / "model")
    llmasos.accelerate(tmp_path / "model", [{"use": "quant", "bits": 4, "method": "rtn"}], output=tmp_path / "int4", measure=False)
    models = {"float": tmp_path / "model", "int4": tmp_path / "int4"}
    found = llmasos.evaluate(models, base=tmp_path / "model", windows=2, length=64, speed=False)
    assert found["float"].quality.mean_kl < 1e-3 < found["int4"].quality.mean_kl
    assert found["int4"].size.matrices < 0.4 * found["float"].size.matrices_float16
