"""`--ascii`: every cell that reaches the terminal is made of printable ASCII.

The screens are drawn with box and block characters throughout. This filter stands between the
widgets and the terminal, hence it also covers what Textual itself draws (borders, scroll bars,
the palette) and whatever a job writes into its log.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import get_character_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_LOOKALIKE = str.maketrans(
    {
        **dict.fromkeys("│┃┊┆╎║▏▎▕▐▌▍▋▊▉", "|"),
        **dict.fromkeys("─┄┈╌", "-"),
        **dict.fromkeys("━═▬", "="),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼╞╡╟╢", "+"),
        **dict.fromkeys("█▇■", "#"),
        **dict.fromkeys("▆▅", "*"),
        **dict.fromkeys("▄▃", "+"),
        **dict.fromkeys("▂", "-"),
        **dict.fromkeys("▁▔", "_"),
        **dict.fromkeys("▀▒▓░", ":"),
        **dict.fromkeys("●◉◆", "*"),
        **dict.fromkeys("○◌◇", "o"),
        **dict.fromkeys("▸▶›»→⮕", ">"),
        **dict.fromkeys("◂◀‹«←", "<"),
        **dict.fromkeys("▲△↑", "^"),
        **dict.fromkeys("▼▽↓⭘", "v"),
        **dict.fromkeys("·•…", "."),
        **dict.fromkeys("✓✔★☆", "*"),
        **dict.fromkeys("✗✘×", "x"),
        **dict.fromkeys("–—−‑", "-"),
        **dict.fromkeys("‘’‚", "'"),
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("≤", "<"),
        **dict.fromkeys("≥", ">"),
        **dict.fromkeys("±≈", "~"),
        "\u00a0": " ",
        "\u2009": " ",
    }
)


@lru_cache(4096)
def to_ascii(text: str) -> str:
    """The text in printable ASCII, as many cells wide as before."""
    if text.isascii():
        return text
    return "".join(_character(c) for c in text.translate(_LOOKALIKE))


def _character(character: str) -> str:
    if character.isascii():
        return character
    width = get_character_cell_size(character)
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (plain[:width] if plain else "").ljust(width, "?")


class AsciiFilter(LineFilter):
    """Replaces what is not ASCII by something that looks like it."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same line in ASCII."""
        return [
            segment
            if segment.control
            else Segment(to_ascii(segment.text), segment.style, segment.control)
            for segment in segments
        ]
