"""What GPU types can do at most, from their makers' data sheets."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Upper bounds of one GPU.

    Attributes:
        fp32_tflops: Single-precision arithmetic without tensor cores, 1e12 operations/s.
        half_tflops: 16-bit arithmetic, dense, on tensor cores if it has any, 1e12 operations/s.
        bandwidth_gb_per_s: Its own memory, 1e9 bytes/s.
    """

    fp32_tflops: float
    half_tflops: float
    bandwidth_gb_per_s: float


def _peak(fp32: float, half: float, bandwidth: float) -> Peak:
    return Peak(fp32_tflops=fp32, half_tflops=half, bandwidth_gb_per_s=bandwidth)


PEAKS: dict[str, Peak] = {
    "K80": _peak(4.4, 4.4, 240),  # one of the two chips of a board
    "M60": _peak(4.8, 4.8, 160),  # one of the two chips of a board
    "P4": _peak(5.5, 5.5, 192),
    "P40": _peak(11.8, 11.8, 346),
    "P100": _peak(9.3, 18.7, 732),
    "V100": _peak(15.7, 125, 900),
    "T4": _peak(8.1, 65, 320),
    "RTX2080TI": _peak(13.4, 108, 616),
    "RTX6000": _peak(16.3, 131, 672),
    "RTX6000ADA": _peak(91.1, 364, 960),
    "RTX3090": _peak(35.6, 142, 936),
    "RTXA5000": _peak(27.8, 111, 768),
    "RTXA6000": _peak(38.7, 155, 768),
    "RTX4090": _peak(82.6, 165, 1008),
    "A10": _peak(31.2, 125, 600),
    "A10G": _peak(31.2, 70, 600),
    "A30": _peak(10.3, 165, 933),
    "A40": _peak(37.4, 150, 696),
    "A100": _peak(19.5, 312, 1555),
    "L4": _peak(30.3, 121, 300),
    "L40": _peak(90.5, 181, 864),
    "L40S": _peak(91.6, 362, 864),
    "H100PCIE": _peak(51.2, 756, 2000),
    "H100": _peak(66.9, 989, 3350),
    "H200": _peak(66.9, 989, 4800),
    "B200": _peak(75.0, 2250, 8000),
}
"""By type, without separators and in capitals."""
_A100_80GB = _peak(19.5, 312, 2039)

_BRANDS = frozenset({"NVIDIA", "TESLA", "GEFORCE", "QUADRO"})
_BUILD = re.compile(r"(SXM\d?|PCIE)?(\d\d+GB)?")
"""What may follow a type without a separator: how it is mounted, and its memory."""
_LONGEST = 3
"""Words of a type, as in `RTX 2080 Ti`."""


def type_of(gpu: str) -> str:
    """A type: the known one that most of the first words of a name spell, else the plain name."""
    words = [w for w in re.findall(r"[A-Z0-9]+", gpu.upper()) if w not in _BRANDS]
    for count in range(min(len(words), _LONGEST), 0, -1):
        if (name := "".join(words[:count])) in PEAKS:
            return name
    first = words[0] if words else ""
    begins = [key for key in PEAKS if first.startswith(key) and _BUILD.fullmatch(first[len(key) :])]
    return max(begins, key=len, default="".join(words))


def peak_of(gpu: str) -> Peak | None:
    """The peak of a GPU type, None of one that is not known."""
    if type_of(gpu) == "A100" and "80GB" in gpu.upper().replace(" ", ""):
        return _A100_80GB
    return PEAKS.get(type_of(gpu))
