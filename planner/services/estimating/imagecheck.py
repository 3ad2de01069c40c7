"""Whether an image file is whole, told from its first and last bytes, without decoding it.

A truncated download or an HTML error page saved as `.jpg` stops a training run hours in; both
show at the ends of the file. Formats without an end marker that is cheap to find (TIFF, PPM) are
only asked to be non-empty.
"""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
)
"""Suffixes that make a file an image, as torchvision's ImageFolder reads them, and GIF."""

_UNCHECKED = frozenset({".ppm", ".pgm", ".tif", ".tiff"})
_HEAD_BYTES = 32
# Cameras and editors append metadata after the end marker; decoders skip it.
_TAIL_BYTES = 4096
_PNG_END = b"IEND\xaeB`\x82"


def is_image(name: str) -> bool:
    """Whether the name's suffix says image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def damage(path: str, size_bytes: int) -> str | None:
    """What is wrong with an image file; None when both ends look right.

    The signature decides the format, not the suffix: a PNG that is named `.jpg` is fine.

    Raises:
        OSError: The file cannot be read.
    """
    if size_bytes == 0:
        return "is empty (0 bytes)"
    if Path(path).suffix.lower() in _UNCHECKED:
        return None
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        tail = file.read(_TAIL_BYTES)
    return _damage_of(head, tail, size_bytes)


def _damage_of(head: bytes, tail: bytes, size_bytes: int) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        whole = _PNG_END in tail
        return None if whole else "is a PNG that is cut off (no IEND chunk at its end)"
    if head.startswith(b"\xff\xd8\xff"):
        whole = b"\xff\xd9" in tail
        return None if whole else "is a JPEG that is cut off (no end-of-image marker)"
    if head.startswith((b"GIF87a", b"GIF89a")):
        whole = tail.rstrip(b"\0").endswith(b";")
        return None if whole else "is a GIF that is cut off (no trailer)"
    if head.startswith(b"BM"):
        stated = int.from_bytes(head[2:6], "little")
        return None if stated <= size_bytes else "is a BMP that is shorter than its header says"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        stated = int.from_bytes(head[4:8], "little") + 8
        return None if stated <= size_bytes else "is a WebP that is shorter than its header says"
    return "is no image (its first bytes are not those of PNG, JPEG, GIF, BMP or WebP)"
