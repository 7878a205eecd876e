"""Reads an image to RGB pixels. What is too large is refused from its header, before anything of it is decoded."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from llmasos_hookspecs import Media, RequestError
from llmasos_image_input.data_url import data_of

if TYPE_CHECKING:
    from PIL import Image

#: The kind of media that images are; their data are uint8 [height, width, 3], RGB.
IMAGE: Final = "image"
#: What is decoded: formats whose decoders are in use everywhere. Pillow would also open some that start other programs.
_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF")


@attrs.frozen
class ImageLimits:
    """The largest image that is read.

    Attributes:
        pixels: width times height.
        size: bytes of its file.
    """

    pixels: int = 50_000_000
    size: int = 32 << 20


_USUAL: Final = ImageLimits()


def read_media(given: Any, where: str = "The image", limits: ImageLimits = _USUAL) -> Media:
    """The same as ``read_pixels``, as media for an engine."""
    return Media.of(IMAGE, read_pixels(given, where, limits))


def read_pixels(given: Any, where: str = "The image", limits: ImageLimits = _USUAL) -> npt.NDArray[np.uint8]:
    """RGB pixels, uint8 [height, width, 3], of an image.

    ``given`` is a numpy array uint8 [height, width] or [height, width, 3], a Pillow image, the bytes of a file, a ``data:`` URL, or a path
    as an object (``pathlib.Path``): a plain text is never a path, since messages from elsewhere hold texts. Transparency is dropped, the
    first of several frames is taken, and a photo is turned as its EXIF data say, all as transformers does.

    Raises:
        RequestError: it is none of these, larger than ``limits``, or damaged. The sentence begins with ``where``.
    """
    if isinstance(given, np.ndarray):
        return _array(given, where, limits)
    if isinstance(given, str):
        return _decoded(data_of(given, where, limits.size), where, limits)
    if isinstance(given, bytes | bytearray | memoryview):
        return _decoded(bytes(given), where, limits)
    if isinstance(given, os.PathLike):
        return _decoded(_file(given, where, limits), f"{where} {os.fspath(given)}", limits)
    pillow = sys.modules.get("PIL.Image")  # who gives one of its images has imported it
    if pillow is not None and isinstance(given, pillow.Image):
        _check_pixels(given.width, given.height, where, limits)
        return _rgb(given, where)
    raise RequestError(f"{where} is a {type(given).__name__}; give a numpy array, a Pillow image, bytes, a path or a data: URL.")


def read_file(path: os.PathLike[Any], where: str = "The image", limits: ImageLimits = _USUAL) -> bytes:
    """The bytes of an image's file, of which the header alone has been looked at; a message keeps them where it is kept.

    Raises ``RequestError`` as ``read_pixels`` does, but for damage that only decoding finds.
    """
    data = _file(path, where, limits)
    with _opened(data, f"{where} {os.fspath(path)}", limits):
        return data


def _array(given: npt.NDArray[Any], where: str, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    if given.dtype != np.uint8 or given.ndim not in (2, 3) or (given.ndim == 3 and given.shape[2] != 3) or not given.size:
        raise RequestError(f"{where} is {given.dtype} of shape {given.shape}; give uint8 [height, width, 3], or [height, width] for grey.")
    _check_pixels(given.shape[1], given.shape[0], where, limits)
    return np.ascontiguousarray(given if given.ndim == 3 else np.repeat(given[:, :, None], 3, axis=2))


def _file(path: os.PathLike[Any], where: str, limits: ImageLimits) -> bytes:
    try:
        # Not blocking: a named pipe without a writer would wait for ever.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RequestError(f"{where} {os.fspath(path)} is no regular file.")
            return file.read(limits.size + 1)
    except OSError as error:
        raise RequestError(f"{where} {os.fspath(path)} cannot be read: {error.strerror}.") from error


def _decoded(data: bytes, where: str, limits: ImageLimits) -> npt.NDArray[np.uint8]:
    with _opened(data, where, limits) as image:
        return _rgb(image, where)


def _opened(data: bytes, where: str, limits: ImageLimits) -> Image.Image:
    """An image whose header is read, and whose size is within the limits."""
    try:
        from PIL import Image
    except ImportError as error:
        raise RequestError(f'{where} cannot be read without Pillow; pip install "llmasos-image-input[files]".') from error

    if len(data) > limits.size:
        raise RequestError(f"{where} has more than {limits.size} bytes; give a smaller one.")
    try:
        # Reads the header only.
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(where, limits) from error
    except Exception as error:  # decoders of damaged files raise what they like
        raise RequestError(f"{where} is no image of {', '.join(_FORMATS)}, or its header is damaged.") from error
    try:
        _check_pixels(image.width, image.height, where, limits)
    except RequestError:
        image.close()
        raise
    return image


def _rgb(image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
    from PIL import ImageOps

    try:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except Exception as error:  # decoders of damaged files raise what they like
        raise RequestError(f"{where} is damaged ({_line(error)}); get the file again.") from error


def _check_pixels(width: int, height: int, where: str, limits: ImageLimits) -> None:
    if width * height > limits.pixels:
        raise _too_many_pixels(where, limits, f"{width} x {height}, ")
    if not width * height:
        raise RequestError(f"{where} has no pixels.")


def _too_many_pixels(where: str, limits: ImageLimits, size: str = "") -> RequestError:
    return RequestError(f"{where} has more pixels than are read: {size}at most {limits.pixels}; scale it down.")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
