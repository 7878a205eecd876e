"""``run`` and ``task``: answers on standard output, notes on standard error, and exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest
from core.tests.forked_children import ForkedChild


def test_a_text_is_continued(cli, model):
    """The same text in a stream, as JSON, and from standard input; nothing else on standard output."""
    streamed = cli("run", "Hello", *model, "-n", "12")
    assert (streamed.returncode, streamed.stderr) == (0, "")
    as_json = json.loads(cli("run", "Hello", *model, "-n", "12", "--json").stdout)
    assert as_json["text"] + "\n" == streamed.stdout
    assert isinstance(as_json["conversation"], int)
    assert (len(as_json["tokens"]), as_json["finish_reason"]) == (12, "length")
    assert cli("run", "-", *model, "-n", "12", stdin="Hello\n").stdout == streamed.stdout


def test_several_continuations(here, model):
    """Each has its number; as JSON they are a list, and differ."""
    arguments = ("run", "Hello", *model, "-n", "6", "--n", "3", "--temperature", "1", "--seed", "5")
    found = json.loads(here(*arguments, "--json").stdout)
    assert len({tuple(each["tokens"]) for each in found}) == 3
    shown = here(*arguments).stdout
    assert [f"[{place}] " in shown for place in (1, 2, 3)] == [True] * 3


def test_constraints_shape_the_answer(cli, here, model):
    """A schema, an expression or choices leave nothing else to say."""
    schema = cli.folder / "schema.json"
    schema.write_text(
        json.dumps({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False})
    )
    found = json.loads(here("run", "x", *model, "-n", "200", "--temperature", "1", "--seed", "1", "--schema", schema, "--json").stdout)
    assert found["finish_reason"] == "length" or isinstance(json.loads(found["text"])["a"], bool)
    assert re.fullmatch("[a-c]{5}\n", here("run", "x", *model, "--regex", "[a-c]{5}").stdout)
    assert here("run", "x", *model, "--choices", "yes,no").stdout in ("yes\n", "no\n")
    assert here("run", "x", *model, "--choices", "a,b", "--choices", "a,b c").stdout in ("a,b\n", "a,b c\n")


def test_logprobs_and_guessing_ahead(here, model):
    """Log probabilities come as JSON, and prompt lookup leaves the text as it is."""
    plain = json.loads(here("run", "abc abc abc", *model, "-n", "20", "--logprobs", "2", "--json").stdout)
    assert [len(each["top"]) for each in plain["logprobs"]] == [2] * 20
    ahead = json.loads(here("run", "abc abc abc", *model, "-n", "20", "--prompt-lookup", "6", "--json").stdout)
    assert ahead["tokens"] == plain["tokens"]


def test_a_task_over_a_file_resumes(cli, here, model):
    """Each row is answered once over two runs; refused rows are told by the exit code."""
    rows, output = cli.folder / "rows.jsonl", cli.folder / "out.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"row {n}"}) + "\n" for n in range(6)))
    arguments = ("task", "generate", *model, "--batch", rows, "--output", output, "--max-new-tokens", "4")
    first = cli(*arguments)
    assert (first.returncode, first.stdout) == (0, "")
    assert re.search(r"6 rows in [\d.]+ s, [\d.]+ rows/s; see .*out\.jsonl\.", first.stderr)
    lines = output.read_text().splitlines()
    output.write_text("\n".join(lines[:4]) + "\n" + lines[4][:30])  # as a kill leaves it
    again = json.loads(here(*arguments, "--json").stdout)
    assert (again["done"], again["skipped"], again["rows"], again["errors"]) == (2, 4, 6, 0)
    assert output.read_text().splitlines() == lines
    rows.write_text(rows.read_text() + '{"nonsense": 1}\n')
    refused = here(*arguments)
    assert refused.returncode == 1
    assert "1 were refused" in refused.stderr


def test_tasks_are_listed_and_explain_their_inputs(here, model):
    """``tasks`` lists them, ``task NAME --help`` their inputs."""
    assert "translate" in {each["task"] for each in json.loads(here("tasks", "--json").stdout)}
    assert "max_new_tokens" in here("task", "generate", *model, "--help").stdout
    assert json.loads(here("task", "generate", *model, "--prompt", "x", "--max-new-tokens", "3", "--json").stdout)["new_tokens"] == 3


BAD = [
    (("run", "x", "--temperature", "-1"), "temperature is -1"),
    (("run", "x", "--regex", "("), "The regex cannot be used"),
    (("run", "x", "--regex", "a", "--choices", "a,b"), "Only one of"),
    (("run", "x", "--schema", "none.json"), "none.json, which cannot be read"),
    (("run", "x", "--logprobs", "1"), "--json too"),
    (("run", "x", "--max-length", "1"), "counts the prompt"),
    (("run", "x", "-n", "5000"), "context"),
    (("run", ""), "empty"),
    (("run", "one", "two", "three"), 'in quotes: llmasos run "one two three"'),
    (("run", "other", "x"), 'Two models are named, "other" and "'),
    (("run", "x", "--raw", "--system", "y"), "--raw continues a plain text"),
    (("run", "x", "--continue", "--resume", "y"), "two conversations"),
    (("run", "x", "--resume", "none"), 'no conversation "none"'),
    (("run", "x", "--set", "scheduler.max_sequence=2"), 'did you mean "max_sequences"'),
    (("run", "x", "--set", "nonsense"), "path=value"),
    (("run", "x", "--scheduler", "fiffo"), 'did you mean "fifo"'),
    (("run", "x", "--config", "none.toml"), "none.toml"),
    (("task", "transalte"), 'did you mean "translate"'),
    (("task", "translate", "--text", "x"), "target"),
    (("task", "translate", "--texr", "x"), 'did you mean "text"'),
    (("task", "translate", "--text", "@none.txt", "--target", "French"), "none.txt cannot be read"),
    (("task", "generate", "--batch", "rows.jsonl"), "--output"),
    (("task", "generate", "--batch", "none.jsonl", "--output", "out.jsonl"), "none.jsonl cannot be read"),
    (("chat", "x", "--resume", "none"), 'no conversation "none"'),
    (("chat", "x", "--resume", "../none"), "cannot name a conversation"),
    (("evaluate", "--task", "sentiment", "none.jsonl"), "none.jsonl"),
    (("accelerate", "--stage", "quant:bits=4,group"), "name=value"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_wrong_use_is_one_sentence(here, model, arguments, sentence):
    """What is wrong, and 1 or 2; never a traceback, and nothing on standard output."""
    # A loader that the command does not need costs nothing, and --set must not contradict it.
    done = here(*arguments, *(model if arguments[0] not in ("evaluate", "accelerate") else ["--loader", "onnx"]))
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "x", "--n", "0"), "--n"),
        (("run", "x", "--temperature", "hot"), "not a valid number|valid number"),
        (("run", "x", "--tempo", "1"), "No such option"),
        (("rnu",), "No such command"),
        (("models", "alias"), "Missing argument"),
        (("plugins", "new", "task"), "Missing argument"),
    ],
)
def test_wrong_words_show_the_usage(here, arguments, sentence):
    """Options that do not exist or cannot be read exit with 2 and say how the command is used."""
    done = here(*arguments)
    assert done.returncode == 2
    assert re.search(sentence, done.stderr)
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("reference", ["./none", "smolm2", "hf:org/none", "pypi:none-of-the-kind==1", "ftp:x", ""])
def test_a_model_that_is_not_there_is_one_sentence(cli, reference):
    """A reference that leads nowhere fails with 1."""
    done = cli("run", "x", "--model", reference, "--set", "offline=true", HF_HUB_OFFLINE="1")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage" * 20, b"[]"])
def test_a_damaged_model_is_one_sentence(cli, here, tiny, damage, content):
    """An empty or garbled file is named."""
    folder = cli.folder / "damaged"
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(content if path.name == damage else path.read_bytes())
    done = here("run", "x", "--model", folder, "--loader", "onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert damage in done.stderr
    assert done.stderr.count("\n") == 1


def test_text_that_is_no_text_is_one_sentence(cli, model):
    """Bytes that are not UTF-8 are refused, from an argument or a pipe."""
    for done in (cli("run", *model, stdin=b"\xff\xfe"), cli("run", "\udcff", *model)):
        assert done.returncode == 2
        assert "UTF-8" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_narrow_terminal_costs_no_traceback(cli, model):
    """Characters that the terminal's encoding lacks are written as their numbers."""
    done = cli("run", "x", *model, "--choices", "é,天", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in ("\\xe9\n", "\\u5929\n")


#: An answer that cannot end early.
LONG = ["-n", "900", "--regex", "[a-z]{900}"]


def test_ctrl_c_ends_with_130(cli, model):
    """In the middle of an answer, without a traceback."""
    running = cli.start("run", "Hello", *model, *LONG, stdin=subprocess.DEVNULL)
    assert running.stdout.read(1)
    running.send_signal(signal.SIGINT)
    assert b"Traceback" not in ended(running)
    assert running.returncode == 130


def test_ctrl_c_before_anything_came_ends_with_130(cli, model):
    """While standard input is being waited for."""
    running = cli.start("run", "-", *model)
    wait_for_reading(running)
    running.send_signal(signal.SIGINT)
    assert b"Traceback" not in ended(running)
    assert running.returncode == 130


def ended(process: ForkedChild) -> bytes:
    """What a process says on standard error until it ends."""
    error = process.stderr.read()
    process.wait(60)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    return error


def wait_for_reading(process: ForkedChild) -> None:
    """Until the process sleeps in a read of its standard input, or has ended."""
    state = Path(f"/proc/{process.pid}/syscall")
    if not state.exists():
        pytest.skip("Only Linux tells what a process waits for.")
    while process.poll() is None:
        if state.read_text().split()[:2] == ["0", "0x0"]:  # read(0, ...)
            return


def test_a_reader_that_goes_away_is_no_error(cli, model):
    """``llmasos run ... | head`` says nothing about the pipe."""
    running = cli.start("run", "Hello", *model, *LONG, stdin=subprocess.DEVNULL)
    assert running.stdout.read(1)
    running.stdout.close()
    assert ended(running) == b""
