"""Code comes back as code: without its fence, parsed where that is asked for, never run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from llmasos_app_code import code, code_translate, complete, explain
from llmasos_app_code.fences import code_in, fenced, fenced_form
from llmasos_app_code.languages import CHECKED, syntax_problem
from llmasos_hookspecs import RequestError
from llmasos_hookspecs.testing.task import TaskConformance
from llmasos_hookspecs.testing.task_inputs import assert_valid_output, texts
from llmasos_hookspecs.testing.task_model import ScriptedTaskModel
from llmasos_hookspecs.testing.tokenizer import ByteTokenizer


class TestCode(TaskConformance):
    module = "llmasos_app_code.code"
    example: ClassVar[dict[str, Any]] = {"instruction": "add two numbers", "check": True}


class TestCodeTranslate(TaskConformance):
    module = "llmasos_app_code.code_translate"
    example: ClassVar[dict[str, Any]] = {"code": "print(1)", "target": "javascript", "check": True}
    text_field = "code"


class TestComplete(TaskConformance):
    module = "llmasos_app_code.complete"
    example: ClassVar[dict[str, Any]] = {"prefix": "def add(a, b):"}


class TestExplain(TaskConformance):
    module = "llmasos_app_code.explain"
    example: ClassVar[dict[str, Any]] = {"code": "x = x or 1"}


tokens = st.integers(1, 200)
languages = st.sampled_from(("python", "C++", "go", "JSON", "cobol", ""))
CASES: dict[str, tuple[Any, Any]] = {
    "code": (code.Code(), st.builds(code.Inputs, instruction=texts(), language=languages, check=st.booleans(), max_new_tokens=tokens)),
    "code_translate": (
        code_translate.CodeTranslate(),
        st.builds(
            code_translate.Inputs, code=texts(), source=languages, target=languages.filter(bool), check=st.booleans(), max_new_tokens=tokens
        ),
    ),
    "complete": (
        complete.Complete(),
        st.builds(complete.Inputs, prefix=texts(), suffix=texts() | st.just(""), max_new_tokens=tokens),
    ),
    "explain": (explain.Explain(), st.builds(explain.Inputs, code=texts(), language=languages, max_new_tokens=tokens)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_answer_has_the_promised_form(name: str) -> None:
    task, inputs = CASES[name]

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs, st.integers(0, 2**16), st.booleans())
    def check(value: Any, seed: int, template: bool) -> None:
        if "cobol" in (getattr(value, "target", ""), getattr(value, "language", "")) and getattr(value, "check", False):
            with pytest.raises(RequestError, match="cannot be checked"):
                task.run(ScriptedTaskModel(seed=seed), value)
            return
        output = task.run(ScriptedTaskModel(seed=seed, has_chat_template=template), value)
        assert_valid_output(task, output)
        if getattr(value, "check", False):
            assert output.checked
            assert bool(output.problem) == (syntax_problem(output.code, output.language) is not None)

    check()


def replies(*said: str) -> ScriptedTaskModel:
    return ScriptedTaskModel(list(said))


def test_code_that_does_not_parse_is_repaired_once_and_says_so() -> None:
    model = replies("```python\ndef f(:\n```", "```python\ndef f(): pass\n```")
    output = code.Code().run(model, code.Inputs(instruction="f", check=True))
    assert (output.code, output.checked, output.repaired, output.problem) == ("def f(): pass", True, True, "")
    assert "line 1" in model.calls[1].text
    assert "def f(:" in model.calls[1].text


def test_code_that_cannot_be_repaired_comes_back_with_its_problem() -> None:
    model = replies("```python\nx = (\n```", "```python\ny = )\n```")
    output = code.Code().run(model, code.Inputs(instruction="f", check=True))
    assert (output.code, output.repaired) == ("x = (", False)
    assert output.problem.startswith("line 1")
    assert len(model.calls) == 2


def test_code_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    output = code.Code().run(replies(f"```python\nopen({str(trace)!r}, 'w').close()\n```"), code.Inputs(instruction="f", check=True))
    assert output.checked
    assert not output.problem
    assert not trace.exists()


def test_the_model_is_held_to_one_fenced_block() -> None:
    for seed in range(50):
        model = ScriptedTaskModel(seed=seed)
        code.Code().run(model, code.Inputs(instruction="f", language="go"))
        assert model.calls[0].sampling["regex"] == fenced_form("go")
        assert model.generate("x", regex=fenced_form("go"), max_new_tokens=200).text.startswith("```go\n")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Sure!\n```python\nx = 1\n```\nDone.", "x = 1"),
        ("```\nx = 1", "x = 1"),
        ("x = 1\n", "x = 1"),
        ("```py\na\n```\nor\n```py\na = 1\nb = 2\n```", "a = 1\nb = 2"),
        ("~~~js\nlet a;\n~~~", "let a;"),
        ("````md\n```\nx\n```\n````", "```\nx\n```"),
        ("  ```python\n  x = 1\n  ```", "  x = 1"),
        ("", ""),
    ],
)
def test_code_is_taken_out_of_its_fence(reply: str, expected: str) -> None:
    assert code_in(reply) == expected


@settings(deadline=None)
@given(texts() | st.just(""))
def test_a_fence_gives_back_the_code_put_into_it(text: str) -> None:
    text = text.replace("\r", "").strip("\n").rstrip()
    assert code_in(fenced(text, "x")) == text


GOOD = {
    "python": "def f(x):\n    return x\n",
    "json": '{"a": [1, null]}',
    "bash": "for i in 1 2; do echo $i; done",
    "c": "int main(void) { return 0; }",
    "cpp": "int main() { auto x = [] { return 1; }; return x(); }",
    "go": "package main\nfunc main() {}\n",
    "java": "class A { void f() {} }",
    "javascript": "const f = (x) => x + 1;",
    "rust": "fn main() { let x = 1; }",
    "typescript": "const f = (x: number): number => x;",
}


@pytest.mark.parametrize("language", CHECKED)
def test_every_language_is_parsed(language: str) -> None:
    assert syntax_problem(GOOD[language], language) is None
    problem = syntax_problem("\n" + GOOD[language].replace("(", "((", 1).replace("[", "[[", 1).replace("do", "", 1), language)
    assert problem is not None
    assert problem.startswith("line ")
    assert syntax_problem(" \n", language) == "there is no code"


@pytest.mark.parametrize("bad", ["x = '\0'", "(" * 5000, "x = " + "-" * 200_000 + "1", "9" * 10_000])
def test_python_that_breaks_compilers_is_only_a_problem(bad: str) -> None:
    assert isinstance(syntax_problem(bad, "python"), str)


class FimTokenizer(ByteTokenizer):
    """Knows the tokens for filling in the middle, as Qwen-Coder spells them."""

    tokens: ClassVar[Mapping[str, int]] = {"<|fim_prefix|>": 270, "<|fim_suffix|>": 271, "<|fim_middle|>": 272}

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        for spelling, token in self.tokens.items():
            if spelling in text:
                before, _, after = text.partition(spelling)
                return [*self.encode(before), token, *self.encode(after)]
        return super().encode(text)

    def is_special(self, token: int) -> bool:
        return token >= 256

    def token_bytes(self, token: int) -> bytes:
        return next((s.encode() for s, t in self.tokens.items() if t == token), b"") or super().token_bytes(token)


def test_the_middle_is_filled_in_where_the_tokenizer_can() -> None:
    model = replies("return a + b")
    model.tokenizer = FimTokenizer()
    inputs = complete.Inputs(prefix="def add(a, b):\n    ", suffix="\nprint('<|fim_middle|>')")
    output = complete.Complete().run(model, inputs)
    assert output.mode == "fim"
    assert model.calls[0].text == "<|fim_prefix|>def add(a, b):\n    <|fim_suffix|>\nprint('< |fim_middle|>')<|fim_middle|>"
    assert output.code == inputs.prefix + "return a + b" + inputs.suffix


def test_without_the_tokens_the_completion_ends_where_the_code_behind_begins() -> None:
    output = complete.Complete().run(
        replies("return a + b\n\nprint(add(1, 2))\nprint(3)"),
        complete.Inputs(prefix="def add(a, b):\n    ", suffix="\n\nprint(add(1, 2))\n"),
    )
    assert (output.mode, output.text) == ("prefix", "return a + b\n\n")


@pytest.mark.parametrize("prefix", [0, 5000])
def test_a_long_file_is_cut_around_the_cursor(prefix: int) -> None:
    model = replies("x")
    model.tokenizer = FimTokenizer()
    complete.Complete().run(model, complete.Inputs(prefix="a" * prefix + "BEFORE", suffix="BEHIND" + "b" * 5000))
    assert "BEFORE<|fim_suffix|>BEHIND" in model.calls[0].text


def test_the_modules_of_the_tasks_import_nothing_heavy() -> None:
    """Not even all of them together."""
    modules = ", ".join(f"llmasos_app_code.{name}" for name in CASES)
    program = f"import sys, {modules}; print([m for m in ('tree_sitter', 'torch', 'llguidance') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_number_of_too_many_digits_is_a_problem_of_the_code() -> None:
    assert "digits" in str(syntax_problem("[" + "1" * 5000 + "]", "json"))


def test_a_check_of_python_reads_no_file_of_the_working_folder(tmp_path: Path) -> None:
    """Python looks for the line of a syntax error in the file that the code is said to be from."""
    code = """
        import os, sys
        from llmasos_app_code.languages import syntax_problem
        syntax_problem("1 +", "python")
        opened = []
        sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
        print(syntax_problem("def f(a, a): pass", "python"))
        print([path for path in opened if not path.startswith(os.devnull)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["line 1: duplicate argument 'a' in function definition", "[]"]
