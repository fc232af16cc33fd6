"""Reads image files of any mode as RGB, or refuses them with a reason."""

from __future__ import annotations

import contextlib
import logging
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from attn_bench.plugin import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

# The formats decoded, whatever the name of the file: others, such as EPS, start programs.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
# Largest ratio of an image's sides: beyond it, resizing the shorter side to a resolution would exhaust memory.
LARGEST_RATIO = 1000
# The end of a complete file of a format, except for bytes that programs append.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_TAIL_BYTES = 4096


def read_rgb(path: Path) -> Image:
    """Return an image in mode RGB, as stored: as in published scores, its EXIF orientation is not applied.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with quiet(), path.open("rb") as file, _opened(file) as image:
            return as_rgb(image)
    except Exception as error:  # Pillow raises errors of any kind on broken files
        raise DataError(f"{path} cannot be read ({_reason(path, error)})") from None


def as_rgb(image: Image) -> Image:
    """Return ``image`` in mode RGB; 16-bit shades of gray are scaled by their range, as Pillow would clip them at 255.

    Raises:
        ValueError: the range of the shades is unknown.
    """
    import numpy as np
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    # Some versions of Pillow read 16 bits as integers of 32.
    largest = 1 if image.mode == "F" else 65535
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= largest):
        raise ValueError(
            f"its shades are between {values.min():g} and {values.max():g}; save it with 8 or 16 bits per shade"
        )
    return Image.fromarray(np.rint(values * (255 / largest)).astype(np.uint8)).convert("RGB")


def fault(path: Path, *, whole: bool) -> str | None:
    """Return why an image cannot be read, or None.

    Args:
        whole: decode it completely; otherwise check its header, and its end if the format allows it.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "it is not a file"
        with path.open("rb") as file, _opened(file) as image:
            if whole or image.mode.startswith(("I", "F")) or not _has_an_end(file, image.format):
                # A JPEG at an eighth of its size: everything is decoded with little computation.
                image.draft("RGB", (image.width // 8, image.height // 8))
                as_rgb(image)
    except Exception as error:
        return _reason(path, error)
    return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings about odd files, which may be errors; not thread-safe."""
    logger = logging.getLogger("PIL")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _opened(file: IO[bytes]) -> Iterator[Image]:
    from PIL import Image

    with Image.open(file, formats=FORMATS) as image:
        short, long = sorted(image.size)
        if long > LARGEST_RATIO * short:
            raise ValueError(f"it has {image.width} x {image.height} points, which is too narrow")
        yield image


def _has_an_end(file: IO[bytes], kind: str | None) -> bool:
    if kind not in _ENDS:
        return False
    place = file.tell()
    file.seek(0, 2)
    file.seek(max(0, file.tell() - _TAIL_BYTES))
    found = _ENDS[kind] in file.read()
    file.seek(place)
    return found


def _reason(path: Path, error: Exception) -> str:
    """Return briefly why a file cannot be read."""
    from PIL import UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "it is a link to a missing file" if path.is_symlink() else "it does not exist"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image" if path.stat().st_size else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:160] or type(error).__name__
