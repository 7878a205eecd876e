"""What suites and pages say of figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest

from llmasos_hookspecs import Figure, Measurement, Report, Section, SuiteResult, figure_columns, figure_table
from llmasos_hookspecs.testing import SandboxCommandContext, SandboxModel, quantize, run_command, tiny_checkpoint
from llmasos_suite_quality import quality, size, speed, verb
from llmasos_suite_quality.charts import bar_chart, line_chart
from llmasos_suite_quality.page import render
from llmasos_suite_quality.verdict import verdicts


def measured(model: SandboxModel, **options: Any) -> SuiteResult:
    return quality.QualitySuite(quality.Options(**{"windows": 2, "length": 24, **options})).measure(model)


def result(perplexity: float, mean_kl: float = 0.0) -> SuiteResult:
    figures = {"perplexity": perplexity, "mean_kl": mean_kl, "p99_kl": mean_kl, "top1": 1.0}
    return SuiteResult(figures=tuple(Figure(name=name, value=value) for name, value in figures.items()))


def test_what_is_remembered_needs_no_engine() -> None:
    """Neither the model nor the reference is loaded again, and the figures are the same."""
    checkpoint = tiny_checkpoint("llama")
    first = SandboxModel(checkpoint=checkpoint)
    found = measured(first)
    second = SandboxModel(checkpoint=checkpoint, remembered=first.remembered)
    assert measured(second) == found
    assert sorted(first.engines) == ["engine", "reference"]
    assert not second.engines


def test_figures_that_are_not_finite_are_remembered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has no infinity; a model that gives a token no chance has it all the same."""
    from llmasos_suite_quality import divergence

    model = SandboxModel(checkpoint=tiny_checkpoint("llama"))
    right = divergence.measure_quality
    monkeypatch.setattr(
        divergence, "measure_quality", lambda *_, **more: attrs.evolve(right(*_, **more), perplexity=math.inf, p99_kl=math.inf)
    )
    first, second = measured(model), measured(model)
    assert first == second
    assert (second.figure("perplexity").value, second.figure("p99_kl").value) == (math.inf, math.inf)
    assert second.figure("mean_kl").value == pytest.approx(0, abs=1e-6)


def test_windows_that_the_context_cut_are_told() -> None:
    """How long they are, and how long they were asked for."""
    result = measured(SandboxModel(checkpoint=tiny_checkpoint("llama")), length=512)
    assert result.facts["window"] == 256
    assert "The model's context has 256 tokens, and so have the evaluation windows; 512 were asked for." in result.notes
    assert not measured(SandboxModel(checkpoint=tiny_checkpoint("llama"))).notes


def test_a_reference_that_is_not_float32_is_told() -> None:
    """The divergences leave out what it rounds."""
    model = SandboxModel(checkpoint=tiny_checkpoint("llama"))
    reference = model.reference()
    reference.info = attrs.evolve(reference.info, dtype="bfloat16")
    assert "computed in bfloat16" in measured(model).notes[0]


def test_a_base_of_four_bit_blocks_is_no_methods_merit() -> None:
    """Told where a model is compared with such a base, not of a model alone."""
    base = tiny_checkpoint("llama-q4-minimums")
    (note,) = measured(SandboxModel(checkpoint=tiny_checkpoint("llama"), base=base)).notes
    assert "4-bit blocks (groups of 32 with a float minimum)" in note
    assert "no method's merit" in note
    assert not measured(SandboxModel(checkpoint=base)).notes


STAGES: dict[str, tuple[dict[str, SuiteResult], list[str]]] = {
    "what a stage puts back": (
        {"base": result(10.0), "1 coarse": result(20.0), "2 restored": result(10.0)},
        ["2 restored: recovered 100% of the log-perplexity that was lost before it."],
    ),
    "half of it": (
        {"base": result(10.0), "1 coarse": result(40.0), "2 better": result(20.0)},
        ["2 better: recovered 50% of the log-perplexity that was lost before it."],
    ),
    "a divergence": (
        {"base": result(10.0), "1 coarse": result(11.0, 0.25), "2 fine": result(11.0, 0.05)},
        ["1 coarse: the predictions now diverge from the base's by 0.25 nats a token, which readers will notice."],
    ),
    "infinity": ({"base": result(10.0), "1 broken": result(math.inf), "2 more": result(math.inf)}, []),
    "models that are no stages": ({"a": result(10.0), "b": result(20.0), "c": result(10.0)}, []),
}


@pytest.mark.parametrize("case", STAGES)
def test_what_stages_lose_and_recover_is_told(case: str) -> None:
    """In sentences, for the notes of an acceleration."""
    results, notes = STAGES[case]
    assert quality.QualitySuite(quality.Options()).notes(results) == notes


def test_quantised_matrices_shrink_the_facts_of_size(tmp_path: Path) -> None:
    """Bytes on disk, in memory, and of packed matrices."""
    base = tiny_checkpoint("llama", folder=tmp_path / "model")
    found = size.SizeSuite().measure(SandboxModel(checkpoint=base))
    assert str(found.figure("disk")) == f"{(tmp_path / 'model' / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
    assert found.figure("memory").value > 0
    packed = attrs.evolve(
        base, tensors={name: quantize(tensor, 8) if tensor.ndim == 2 else tensor for name, tensor in base.tensors.items()}
    )
    assert size.SizeSuite().measure(SandboxModel(checkpoint=packed)).facts["matrices"] < found.facts["matrices"] / 2


def test_a_prompt_is_no_longer_than_its_text_and_leaves_room_for_new_tokens() -> None:
    """The text has ``length`` tokens, and the context of the model 256."""
    model = SandboxModel(checkpoint=tiny_checkpoint("llama"))
    for options, tokens in (({"length": 20}, 20), ({"prompt_tokens": 9}, 9), ({"prompt_tokens": 256, "new_tokens": 6}, 250)):
        chosen = speed.Options(**{"repeats": 1, "new_tokens": 2, **options})
        assert speed.SpeedSuite(chosen).measure(model).facts["prompt_tokens"] == tokens


def report(**more: Any) -> Report:
    models = {
        label: Measurement(results={"s": SuiteResult(figures=(Figure(name="x", value=value, error=0.5, unit="tok/s"),))}, backend="b 1.0")
        for label, value in (("<one>", 1.0), ("two", math.nan))
    }
    columns, rows = figure_table({label: found.results for label, found in models.items()})
    return Report(title="A & B", text="Text.", columns=columns, rows=rows, models=models, **more)


def test_a_page_stands_alone_and_its_charts_are_sound() -> None:
    """No scripts and nothing from elsewhere; what users name is escaped; what is not finite is in the table alone."""
    curve = Section(title="Loss", lines={"train": [(0.0, 2.0), (1.0, 1.0)]}, details="{}")
    table = Section(title="Skipped", columns=("tensor", "why"), rows=(("w<0>", "small"),), bars={"a": (1.0, 0.0), "b": (math.inf, 0.0)})
    page = render(report(notes=("N & M.",), sections=(curve, table)))
    assert page.count("<svg") == 3
    assert not any(word in page for word in ("http", "src=", "url(", "<script", "<link"))
    for text in ("A &amp; B", "&lt;one&gt;: on b 1.0", "N &amp; M.", "w&lt;0&gt;", "1.00 ± 0.50", "<td>nan ± 0.50</td>", "<pre>{}</pre>"):
        assert text in page
    drawings = [ElementTree.fromstring("<svg" + each.partition("</svg>")[0] + "</svg>") for each in page.split("<svg")[1:]]
    assert len(drawings[0].findall("rect")) == 1


def test_figures_that_say_the_same_again_have_no_chart() -> None:
    """Of this package's own suites, a chart each for disk, perplexity and mean KL."""
    model = SandboxModel(checkpoint=tiny_checkpoint("llama"))
    found = Measurement(results={"size": size.SizeSuite().measure(model), "quality": measured(model)}, backend="b", dtype="float32")
    page = render(attrs.evolve(report(), models={"m": found}))
    assert [part.partition("<")[0] for part in page.split("<figcaption>")[1:]] == ["disk", "perplexity", "mean KL (nats/token)"]
    assert "m: on b, computed from float32" in page


def model(dtype: str, perplexity: float, decode: float, disk: float) -> Measurement:
    figures = (
        Figure(name="perplexity", value=perplexity, error=0.1, better="lower"),
        Figure(name="decode", value=decode, error=1.0, unit="tok/s", better="higher", repeatable=False),
        Figure(name="disk", value=disk, unit="B", better="lower"),
    )
    return Measurement(results={"s": SuiteResult(figures=figures)}, backend="b", dtype=dtype)


def test_what_was_gained_and_lost_is_told_at_equal_precision() -> None:
    """Perplexity against the base; speed and bytes against it only at its precision, else against the nearest model before at the same."""
    models = {
        "base": model("int4", 10.0, 100.0, 4e6),
        "1 prune": model("float32", 10.1, 40.0, 16e6),
        "2 distil": model("float32", 9.0, 41.0, 15e6),
        "3 quant": model("int4", 12.0, 150.0, 2e6),
    }
    pruned, distilled, packed = verdicts(models, figure_columns(found.results for found in models.values()))
    assert (pruned.gained, pruned.lost, pruned.same) == ((), (), ("perplexity",))
    assert pruned.precision == ("base was computed from int4 and this from float32: decode (tok/s), disk are compared with no other model.")
    assert distilled.gained == ("perplexity 10.00 → 9.00 (10.0% less)", "disk 16.00 MB → 15.00 MB (6.2% less)")
    assert "compared with 1 prune, at the same precision" in distilled.precision
    assert distilled.same == ("decode (tok/s)",)
    assert packed.gained == ("decode (tok/s) 100.00 → 150.00 (50.0% more)", "disk 4.00 MB → 2.00 MB (1/2.0)")
    assert (packed.lost, packed.precision) == (("perplexity 10.00 → 12.00 (20.0% more)",), "")


def test_a_verdict_stands_between_what_was_measured_and_the_table() -> None:
    """A page of one model has none; infinity is a loss, and what is no number is not compared."""
    models = {"base": model("f", 10.0, 100.0, 4e6), "<b>": model("f", math.inf, math.nan, 9e6)}
    page = render(attrs.evolve(report(), models=models))
    assert page.index("Text.") < page.index("<h2>Verdict</h2>") < page.index("<table>")
    told = page.partition("<h2>Verdict</h2>")[2].partition("</ul>")[0]
    assert "<strong>&lt;b&gt;</strong> against base. " in told
    assert 'class="lost">Lost: perplexity 10.00 → inf; disk 4.00 MB → 9.00 MB (2.2 times)</span>.' in told
    assert "decode" not in told
    assert "Verdict" not in render(attrs.evolve(report(), models={"base": models["base"]}))


def test_no_name_is_cut_in_a_chart_and_every_curve_has_its_colour_in_the_legend() -> None:
    """All of a long name stands inside the drawing, whatever it is written in; with more curves than colours the lines differ too."""
    names = ("models/" + "part-of-a-path/" * 9, "一个很长的名字" * 12, *"abcdef")
    bars = bar_chart("t", [(name, 1.0, 0.0) for name in names], str)
    lines = line_chart("t", {name: [(0.0, 1.0), (1.0, 2.0)] for name in names})
    for page in (bars, lines):
        drawing = ElementTree.fromstring("<svg" + page.partition("<svg")[2].partition("</svg>")[0] + "</svg>")
        height = float(drawing.attrib["height"])
        words = [each for each in drawing.findall("text") if each.get("text-anchor") is None]
        assert "".join(each.text or "" for each in words).replace("1.0", "").endswith("".join(names))
        for each in words:
            places = sum(2 if ord(letter) > 0x2E80 else 1 for letter in each.text or "")
            assert float(each.attrib["x"]) + 6.6 * places <= 480
            assert 0 < float(each.attrib["y"]) < height
    curves = [(each.attrib["class"], each.attrib["stroke-dasharray"]) for each in drawing.findall("polyline")]
    legend = [(each.attrib["class"], each.get("stroke-dasharray")) for each in drawing.findall("line") if each.get("class") != "axis"]
    assert curves == legend
    assert len(set(curves)) == len(names)
    page = render(report())
    assert all(f".{name.split()[1]} {{ --c: #" in page for name, _ in curves)
    assert page.count("prefers-color-scheme: dark") == 2


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SandboxCommandContext:
    monkeypatch.chdir(tmp_path)
    suites = {
        "quality": quality.QualitySuite(quality.Options(windows=2, length=24)),
        "size": size.SizeSuite(),
        "speed": speed.SpeedSuite(speed.Options(repeats=1, new_tokens=2)),
    }
    return SandboxCommandContext(root=tmp_path, suites=suites)


def test_the_json_of_the_usual_suites_has_their_values(context: SandboxCommandContext, tmp_path: Path) -> None:
    """One object a model: size, quality and speed by name, with standard errors and facts; the file says what they were measured on."""
    done = run_command(verb.make(context), "one", "two", "--json", "--output", "out")
    assert done.code == 0, done.errors
    models = json.loads(done.output)
    assert set(models) == {"one", "two"}
    assert set(models["one"]) == {"size", "speed", "quality", "backend", "dtype"}
    assert set(models["one"]["quality"]) == {
        *("perplexity", "perplexity_error", "mean_kl", "mean_kl_error", "p99_kl", "top1"),
        *("tokens", "window", "reference"),
    }
    assert set(models["one"]["size"]) == {"disk", "memory", "matrices", "matrices_float16"}
    assert set(models["one"]["speed"]) == {
        *("prefill", "prefill_error", "decode", "decode_error"),
        *("prompt_tokens", "new_tokens", "repeats"),
    }
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written == {"models": models, "base": "one", "corpus": "random", "length": 24}
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    without = json.loads(run_command(verb.make(context), "one", "--no-speed", "--json").output)
    assert without["one"]["speed"] is None


def test_the_json_of_suites_that_were_named_has_all_of_their_figures(context: SandboxCommandContext) -> None:
    """With units and directions; the base and the text beside them."""
    done = run_command(verb.make(context), "one", "--suite", "quality", "--base", "two", "--json")
    facts = json.loads(done.output)
    assert set(facts) == {"models", "backends", "base", "corpus"}
    assert facts["base"] == "two"
    assert facts["models"]["one"]["quality"]["figures"]["mean_kl"]["unit"] == "nats/token"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--suite", "quality", "--windows", "2"), "give a suite its options behind its name"),
        (("--suite", "quality:length=24,windows"), 'has "windows", and options have the form name=value, as in NAME:count=4'),
        (("--task", "echo"), "file with examples after the models"),
        (("--output", "."), "exists already"),
    ],
)
def test_wrong_use_is_one_sentence_before_anything_is_measured(
    context: SandboxCommandContext, arguments: tuple[str, ...], sentence: str
) -> None:
    """And ends with 2."""
    done = run_command(verb.make(context), *arguments)
    assert (done.code, sentence in done.error, context.asked) == (2, True, [])


def test_nothing_of_a_report_stays_where_measuring_fails(context: SandboxCommandContext, tmp_path: Path) -> None:
    """The folder appears whole, or not at all."""
    context.suites = {"quality": None}
    with pytest.raises(AttributeError):
        run_command(verb.make(context), "one", "--suite", "quality", "--output", "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
