"""Voice end to end, with the real models: what Piper says Whisper writes down, speech ends where it ends, and a question gets an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from typer.testing import CliRunner

import llmasos
from llmasos.cli.app import app
from llmasos_app_voice.talking.detector import SpeechDetector
from llmasos_app_voice.talking.endpoints import FRAME, RATE, TICK, Endpoints, Timing
from llmasos_hookspecs.testing.sound import words
from llmasos_voice_kit.wav import read_wav, write_wav

pytestmark = pytest.mark.model

SENTENCES = (
    "The river was quiet this morning, and two otters slept on a stone.",
    "Please open the window before you start the engine.",
    "A small model can answer many questions without the network.",
    "She wrote the letter in the evening and sent it the next day.",
    "How many kilometers is it from the station to the harbor?",
    "The scheduler gives every user a fair share of the machine.",
    "We planted seven apple trees behind the old house.",
    "Nobody knew why the lights went out during the storm.",
    "Remind me to call my brother at noon tomorrow.",
    "The teacher asked the children to draw a yellow bird.",
    "If it rains on Sunday, the match will be played on Monday.",
    "He counted the boats, and there were fewer than last year.",
)
Say = Callable[[str], Any]


def wrong_words(heard: Sequence[str], said: Sequence[str]) -> int:
    """The fewest words that have to be replaced, left out or put in."""
    costs = list(range(len(said) + 1))
    for place, word in enumerate(heard, 1):
        diagonal, costs[0] = costs[0], place
        for other, each in enumerate(said, 1):
            diagonal, costs[other] = costs[other], min(costs[other] + 1, costs[other - 1] + 1, diagonal + (word != each))
    return costs[-1]


@pytest.fixture(scope="module")
def config(whisper_folder: Path, piper_folder: Path, smollm2_gguf: Path) -> dict[str, Any]:
    return {
        "model": {"source": str(smollm2_gguf), "context_length": 512},
        "transcriber": {"use": "whisper", "model": str(whisper_folder), "threads": 1},
        "speaker": {"use": "piper", "voice": str(piper_folder), "variation": 0.0},
    }


@pytest.fixture(scope="module")
def pipeline(config: dict[str, Any]) -> Iterator[llmasos.Pipeline]:
    with llmasos.Pipeline.from_config({**config, "server": [{"use": "http", "port": 0}]}) as pipeline:
        yield pipeline


def word_errors(pipeline: llmasos.Pipeline, say: Say, sentences: Sequence[str]) -> tuple[int, int]:
    """Wrong words, and words in all."""
    wrong = count = 0
    for sentence in sentences:
        heard = pipeline.run("transcribe", audio=write_wav(say(sentence), RATE)).text
        wrong += wrong_words(words(heard), words(sentence))
        count += len(words(sentence))
    return wrong, count


def test_the_distance_of_texts_counts_words() -> None:
    """Replaced, left out and put in."""
    assert wrong_words(["a", "b", "c"], ["a", "b", "c"]) == 0
    assert wrong_words(["a", "x", "c"], ["a", "b", "c"]) == 1
    assert wrong_words(["a", "c"], ["a", "b", "c"]) == 1
    assert wrong_words(["a", "b", "b", "c"], ["a", "b", "c"]) == 1
    assert wrong_words([], ["a", "b"]) == 2


@pytest.mark.long  # the question below, and its answer, are such sentences too
def test_what_piper_says_whisper_writes_down(pipeline: llmasos.Pipeline, say: Say) -> None:
    """Two sentences in one recording, with at most one word of twenty wrong; each segment has its time."""
    pause = np.zeros(RATE // 2, np.float32)
    recording = np.concatenate([part for sentence in SENTENCES[:2] for part in (say(sentence), pause)])
    heard = pipeline.run("transcribe", audio=write_wav(recording, RATE))
    said = words(" ".join(SENTENCES[:2]))
    assert wrong_words(words(heard.text), said) <= 0.05 * len(said), heard.text
    assert heard.seconds == pytest.approx(len(recording) / RATE, abs=0.01)
    assert 0 <= heard.segments[0].start < heard.segments[-1].end <= heard.seconds


@pytest.mark.long
def test_twelve_sentences_have_at_most_one_word_of_twenty_wrong(pipeline: llmasos.Pipeline, say: Say) -> None:
    wrong, count = word_errors(pipeline, say, SENTENCES)
    assert count >= 120
    assert wrong <= 0.05 * count, f"{wrong} of {count} words are wrong."


def test_the_end_of_speech_is_found_within_a_fifth_of_a_second(say: Say) -> None:
    """By Silero's detector, for sentences with pauses before and after them; and its beginning too. `make test-long` has more of them."""
    for sentence in SENTENCES[: 3 if settings.default.max_examples >= 500 else 1]:
        sound = say(sentence)
        loud = np.flatnonzero(np.abs(sound) > 0.02)
        sound = sound[loud[0] : loud[-1] + 1]
        before = np.zeros(RATE, np.float32)
        recording = np.concatenate([before, sound, np.zeros(2 * RATE, np.float32)])
        detector, endpoints = SpeechDetector(), Endpoints(Timing())
        found: dict[str, float] = {}
        for place in range(0, len(recording) - FRAME, FRAME):
            event = endpoints.push(detector(recording[place : place + FRAME]))
            if event == "maybe":
                found["began"] = place / RATE
            elif event == "end":
                found["ended"] = (place + FRAME) / RATE - endpoints.last * TICK
                found["told"] = (place + FRAME) / RATE
        end = (len(before) + len(sound)) / RATE
        assert abs(found["began"] - 1.0) <= 0.2, sentence
        assert abs(found["ended"] - end) <= 0.2, sentence
        assert found["told"] - found["ended"] == pytest.approx(0.7, abs=TICK)


@pytest.fixture
def config_file(config: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "llmasos.toml"
    lines = [f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()) for table, keys in config.items()]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_a_spoken_question_gets_a_spoken_answer(config_file: Path, pipeline: llmasos.Pipeline, say: Say, tmp_path: Path) -> None:
    """``llmasos voice`` from file to file, with SmolLM2; what its answer says Whisper writes down."""
    question = say("What is the capital of France?")
    silence = np.zeros(RATE // 2, np.float32)
    (tmp_path / "q.wav").write_bytes(write_wav(np.concatenate([silence, question, silence]), RATE))
    done = CliRunner().invoke(app, [
        *("voice", "--listen", str(tmp_path / "q.wav"), "--say", str(tmp_path / "a.wav"), "--config", str(config_file)),
        *("--system", "Answer in one short sentence.", "--max-new-tokens", "16", "--temperature", "0", "--json", "--quiet"),
    ])  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    (turn,) = json.loads(done.stdout)
    assert words(turn["heard"]) == words("What is the capital of France?")
    assert "Paris" in turn["said"]
    assert not turn["interrupted"]
    sound, rate = read_wav((tmp_path / "a.wav").read_bytes())
    assert rate == 22_050
    heard = pipeline.run("transcribe", audio=(tmp_path / "a.wav").read_bytes()).text
    assert "paris" in words(heard)
    assert len(sound) / rate > 0.5


@pytest.mark.long
def test_openais_client_hears_what_it_had_said(pipeline: llmasos.Pipeline) -> None:
    """Through a server, the access control and the tasks: a text to a WAV file, and the file to its text."""
    import openai

    text = "We planted seven apple trees behind the old house."
    with llmasos.Servers(pipeline) as servers:
        (endpoint,) = servers.endpoints
        with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="none", max_retries=0) as client:
            sound = client.audio.speech.create(model="any", voice="any", input=text).read()
            heard: Any = client.audio.transcriptions.create(model="any", file=("trees.wav", sound), response_format="verbose_json")
            with pytest.raises(openai.BadRequestError, match='does not understand the language "zh"') as refused:
                client.audio.transcriptions.create(model="any", file=("trees.wav", sound), language="zh")
    assert words(heard.text) == words(text)
    assert heard.duration == pytest.approx(len(read_wav(sound)[0]) / 22_050, abs=0.01)
    assert refused.value.param == "language"


def test_an_interrupted_answer_frees_its_slot_within_a_step(pipeline: llmasos.Pipeline) -> None:
    """The generator of an answer is closed from the thread that hears, while another waits for the loudspeaker."""
    from llmasos_app_voice.talking.reply import Reply

    model = pipeline.model

    class Beeps:
        sample_rate, languages = 16_000, ()

        def speak(self, text: str) -> Iterator[Any]:
            yield np.zeros(16_000 * 6, np.float32)

    prompt = "Once upon a time there was an otter."
    reply = Reply(lambda: prompt, lambda heard: model.stream_text(heard, max_new_tokens=400, ignore_eos=True), Beeps())
    reply.playback.settle()
    assert running(pipeline) == 1
    before = left(pipeline)
    reply.stop()
    least = before
    while running(pipeline):
        least = min(least, left(pipeline) or least)
        threading.Event().wait(0.001)
    assert before > 100, "The answer was complete before it was stopped."
    assert before - least <= 2, "The request went on after the answer was stopped."
    reply.join()
    assert reply.error is None


def usage(pipeline: llmasos.Pipeline) -> dict[str, Any]:
    (model,) = pipeline.usage().values()
    return dict(model)


def running(pipeline: llmasos.Pipeline) -> int:
    return int(usage(pipeline)["running"])


def left(pipeline: llmasos.Pipeline) -> int:
    """Tokens that the running request may still compute: one less after each step."""
    return int(usage(pipeline)["running_tokens"])
