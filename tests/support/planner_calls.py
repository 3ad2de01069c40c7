"""Calls of planner in the test's own process, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

JOB = """
[job]
name = "digits"
command = "python train.py"
samples = 1437
global_batch = 64
epochs = 10
"""


@dataclass(frozen=True)
class Result:
    """How a call of planner ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON document."""
        parsed: dict[str, Any] = json.loads(self.out)
        assert self.out.endswith("}\n")
        return parsed


Planner = Callable[..., Result]
