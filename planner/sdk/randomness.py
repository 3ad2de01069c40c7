"""The random states of one worker, as plain JSON: Python's, NumPy's and torch's."""

from __future__ import annotations

import base64
import json
import random
import sys
from typing import Any


def capture() -> bytes:
    """The states now. NumPy's and torch's only when the script has imported them."""
    states: dict[str, Any] = {"python": random.getstate()}
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        name, keys, *rest = numpy.random.get_state()  # the global one, of the old interface
        states["numpy"] = [name, keys.tolist(), *rest]
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = _packed(torch.get_rng_state())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            states["cuda"] = [_packed(state) for state in torch.cuda.get_rng_state_all()]
    return json.dumps(states).encode()


def restore(blob: bytes) -> None:
    """Set every state that was captured, as far as its library is imported."""
    states = json.loads(blob)
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and "numpy" in states:
        numpy.random.set_state(tuple(states["numpy"]))
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return
    if "torch" in states:
        torch.set_rng_state(_unpacked(torch, states["torch"]))
    if "cuda" in states and torch.cuda.is_available():
        saved = states["cuda"][: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all([_unpacked(torch, state) for state in saved])


def reseed(seed: int) -> None:
    """Fresh states for a worker that had none before: the number of workers changed."""
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _packed(state: Any) -> str:
    return base64.b64encode(bytes(state.tolist())).decode()


def _unpacked(torch: Any, text: str) -> Any:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
