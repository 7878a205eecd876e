"""Images are read to RGB pixels, within bounds."""

from __future__ import annotations

import base64
import io
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmasos_hookspecs import RequestError
from llmasos_image_input.parts import GivenImage, image_of, is_image
from llmasos_image_input.reading import ImageLimits, read_media, read_pixels


def pixels(height: int = 5, width: int = 7, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and has no pixels."""
    header, data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def url_of(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_every_form_of_one_image_gives_the_same_media(tmp_path: Path) -> None:
    """An array, a Pillow image, a file's bytes, its path and its data: URL."""
    array = pixels()
    data = file_of(Image.fromarray(array))
    (tmp_path / "image.png").write_bytes(data)
    forms = [array, Image.fromarray(array), data, memoryview(data), tmp_path / "image.png", url_of(data), url_of(data, "IMAGE/PNG;a=b")]
    found = [read_media(form) for form in forms]
    assert len({media.digest for media in found}) == 1
    assert found[0].kind == "image"
    assert np.array_equal(found[0].data, array)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_formats_in_use_are_read(kind: str) -> None:
    """As Pillow itself reads them."""
    data = file_of(Image.fromarray(pixels(16, 24)), kind)
    assert np.array_equal(read_pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    """Three channels of 8 bits, whatever the file has."""
    image = Image.fromarray(pixels()).convert(mode)
    found = read_pixels(image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_a_photo_is_turned_as_its_camera_says() -> None:
    """EXIF orientation 6: the right side of the file's picture is its bottom."""
    exif = Image.Exif()
    exif[0x0112] = 6
    array = pixels()
    assert np.array_equal(read_pixels(file_of(Image.fromarray(array), exif=exif)), np.rot90(array, -1))


def test_shape_and_content_tell_images_apart() -> None:
    """The same bytes as 30 x 150 and 150 x 30, and one pixel that differs by one."""
    one = pixels(30, 150)
    changed = one.copy()
    changed[29, 149, 2] ^= 1
    assert len({read_media(each).digest for each in (one, one.reshape(150, 30, 3), changed)}) == 3


@pytest.mark.parametrize("size", [(10_000, 10_000), (9_000, 9_000), (60_000, 60_000), (50_000_001, 1)])
def test_a_bomb_is_refused_from_its_header(size: tuple[int, int]) -> None:
    """The file has no pixels at all, so decoding would have told another error; whether Pillow warns of it or not."""
    with pytest.raises(RequestError, match="The image has more pixels than are read"):
        read_pixels(png_header(*size))


def test_limits_are_the_callers() -> None:
    """Of pixels, for every form of an image; of bytes, before they are decoded."""
    array, data = pixels(), file_of(Image.fromarray(pixels()))
    for form in (array, Image.fromarray(array), data, url_of(data)):
        assert read_pixels(form, limits=ImageLimits(pixels=35)).shape == (5, 7, 3)
        with pytest.raises(RequestError, match="Part 2 has more pixels than are read: 7 x 5, at most 34"):
            read_pixels(form, "Part 2", ImageLimits(pixels=34))
    for form in (data, url_of(data)):
        assert read_pixels(form, limits=ImageLimits(size=len(data))).shape == (5, 7, 3)
        with pytest.raises(RequestError, match="has more than"):
            read_pixels(form, limits=ImageLimits(size=len(data) - 1))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("https://example.org/image.png", "nothing is fetched from elsewhere"),
        ("file:///etc/hostname", "nothing is fetched from elsewhere"),
        ("/etc/hostname", "nothing is fetched from elsewhere"),
        ("data:image/png,abc", "nothing is fetched from elsewhere"),
        ("data:" + "a" * 200_000, "nothing is fetched from elsewhere"),
        ("data:image/png;base64,a", "no base64"),
        ("data:image/png;base64,é", "no base64"),
        ("data:image/png;base64,", "is no image of PNG"),
        (b"", "is no image of PNG"),
        (b"%PDF-1.7", "is no image of PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image of PNG"),
        (png_header(0, 4), "no pixels|no image"),
        (png_header(4, 4), "is damaged"),
        (file_of(Image.fromarray(pixels(64, 64)))[:-200], "is damaged"),
        (7, "is a int"),
        (None, "is a NoneType"),
        (np.zeros((4, 4, 3)), "is float64 of shape"),
        (np.zeros((4, 4, 4), np.uint8), "of shape \\(4, 4, 4\\)"),
        (np.zeros((0, 4, 3), np.uint8), "of shape \\(0, 4, 3\\)"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(given: Any, match: str) -> None:
    """Never an error of a decoder; a text is no path, and is never fetched."""
    with pytest.raises(RequestError, match=match) as caught:
        read_pixels(given)
    assert str(caught.value).startswith("The image")
    assert len(str(caught.value)) < 250


def test_a_damaged_file_never_raises_another_error() -> None:
    """One byte of a file of each format changed, at places spread over it, or the file cut there: pixels, or one sentence."""
    draws = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        data = file_of(Image.fromarray(pixels(9, 9)), kind)
        for at in draws.integers(0, len(data), 60).tolist():
            changed = bytes([*data[:at], data[at] ^ int(draws.integers(1, 256)), *data[at + 1 :]])
            for each in (changed, data[:at]):
                try:
                    assert read_pixels(each, limits=ImageLimits(pixels=1_000_000)).shape[2] == 3
                except RequestError:
                    continue


def test_a_path_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """One that is missing, a folder, and a pipe that would never end."""
    os.mkfifo(tmp_path / "pipe")
    for name, match in (("missing", "No such file"), (".", "."), ("pipe", "no regular file")):
        with pytest.raises(RequestError, match=match) as caught:
            read_pixels(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_parts_of_messages_hold_images() -> None:
    """``image`` as Python has it and ``image_url`` as OpenAI has it; other parts are none."""
    assert image_of({"type": "image", "image": b"x"}, "Part 0") == b"x"
    assert image_of({"type": "image_url", "image_url": {"url": "data:", "detail": "low"}}, "Part 0") == "data:"
    assert image_of({"type": "image_url", "image_url": "data:"}, "Part 0") == "data:"
    assert [is_image(part) for part in ({"type": "image"}, {"type": "image_url"}, {"type": "text"}, {}, "image", None)] == [
        True, True, False, False, False, False,
    ]  # fmt: skip
    for part in ({"type": "image"}, {"type": "image_url"}, {"type": "image_url", "image_url": {"url": 7}}):
        with pytest.raises(RequestError, match="Part 0"):
            image_of(part, "Part 0")


def test_a_file_is_read_once_and_looked_at_in_its_header_alone(tmp_path: Path) -> None:
    """Its bytes are kept for later; a bomb, another file and a missing one are refused at once."""
    path = tmp_path / "image.png"
    path.write_bytes(file_of(Image.fromarray(pixels())))
    image = GivenImage.of_file(path)
    path.unlink()
    assert image.read() is image.read()
    assert np.array_equal(image.read().data, pixels())
    for data, said in ((png_header(20_000, 20_000), "more pixels"), (b"text", "is no image"), (None, "cannot be read")):
        if data is not None:
            path.write_bytes(data)
        else:
            path.unlink()
        with pytest.raises(RequestError, match=said):
            GivenImage.of_file(path)


def test_without_pillow_a_file_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array is read all the same: it needs no decoder."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(RequestError, match=r'cannot be read without Pillow; pip install "llmasos-image-input\[files\]"'):
        read_pixels(b"x")
    assert read_pixels(np.zeros((2, 3, 3), np.uint8)).shape == (2, 3, 3)
