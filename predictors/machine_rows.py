"""Rows of `predictors.machines.MachineRegressor`: how a job runs on the GPU type it is known on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.columns import one_length
from predictors.gpus import peak_of

if TYPE_CHECKING:
    from planner.core.distribution import Array

FEATURES: tuple[str, ...] = (
    "log_here",
    "log_micro_batch",
    "slope",
    "bend",
    "mean_slope",
    "log_image",
)
"""How a job runs here; see `describe`."""
COLUMNS: tuple[str, ...] = (*FEATURES, "fixed", "log_peak_ratio", "log_bandwidth_ratio")
"""Numbers of a row. `fixed`: share of the time here that does not grow with the batch, in the line
a + b m of `describe`. `log_peak_ratio`, `log_bandwidth_ratio`: here over there, not-a-number where
a type is unknown."""
LABELS: tuple[str, ...] = ("pair", "job", "model")
"""Labels of a row: the ordered pair of GPU types, the job, and the model that it trains."""
_MOST_GROWTH = 1.1
_USUAL_IMAGE_PX = 64.0


def describe(
    micro_batch: Any,
    here_s: Any,
    asked: Any,
    *,
    image_px: float = float("nan"),
) -> dict[str, Array]:
    """`FEATURES` and `fixed` of a job at some batches, from its times on the type it was tried on.

    Times between measured batches are on a line in logarithms. Growth faster than the batch's
    power 1.1 is that of a memory running full here, which says nothing of another type, and is
    cut off. `bend` is the logarithm of the time over a line a + b m through all of them.

    Args:
        micro_batch: Measured batches, samples, shape (n,).
        here_s: Times of a step on one GPU at these, s, shape (n,).
        asked: Batches to describe, shape (m,).
        image_px: Side of the images; not-a-number where there are none or nobody knows.

    Raises:
        ValueError: No measured batch, or something that is not a positive number.
    """
    m, s = np.asarray(micro_batch, dtype=float), np.asarray(here_s, dtype=float)
    a = np.asarray(asked, dtype=float)
    if not len(m) or not all(np.all(np.isfinite(v) & (v > 0)) for v in (m, s, a)):
        raise ValueError("need positive batches and times, at least one of each")
    batches, of = np.unique(m, return_inverse=True)
    x = np.log(batches)
    y = np.bincount(of, weights=np.log(s)) / np.bincount(of)
    for i in range(1, len(y)):
        y[i] = min(y[i], y[i - 1] + _MOST_GROWTH * (x[i] - x[i - 1]))
    slopes = np.diff(y) / np.diff(x) if len(x) > 1 else np.asarray([0.8])
    at = np.log(a)
    last = len(slopes) - 1
    right = np.clip(np.searchsorted(x, at, side="right") - 1, 0, last)
    left = np.clip(np.searchsorted(x, at, side="left") - 1, 0, last)
    log_here = y[right] + slopes[right] * (at - x[right])
    base, per_sample = _line(batches, np.exp(y))
    mean_slope = (y[-1] - y[0]) / (x[-1] - x[0]) if len(x) > 1 else slopes[0]
    image = image_px if np.isfinite(image_px) else _USUAL_IMAGE_PX
    return {
        "log_here": log_here,
        "log_micro_batch": at,
        "slope": (slopes[left] + slopes[right]) / 2,
        "bend": log_here - np.log(base + per_sample * a),
        "mean_slope": np.full(len(a), mean_slope),
        "log_image": np.full(len(a), np.log(image)),
        "fixed": base / (base + per_sample * a),
    }


def _line(m: Array, s: Array) -> tuple[float, float]:
    """Non-negative a and b of a + b m by relative error."""
    if len(m) < 2:
        return float(s[0]) / 2, float(s[0] / m[0]) / 2
    design = np.stack([np.ones(len(m)), m], axis=1) / s[:, None]
    base, per_sample = np.linalg.lstsq(design, np.ones(len(m)), rcond=None)[0]
    if base < 0 or per_sample < 0:
        j = 1 if base < 0 else 0
        only = float(design[:, j].sum() / (design[:, j] ** 2).sum())
        return (0.0, only) if j else (only, 0.0)
    return float(base), float(per_sample)


def rows(
    described: Mapping[str, Array], here: str, there: str, *, job: str, model: str
) -> dict[str, Any]:
    """Rows for the regressor: features, the ratio of data sheets, and labels."""
    n = len(described["log_here"])
    one, two = peak_of(here), peak_of(there)
    ratio = (float("nan"), float("nan"))
    if one and two:
        ratio = (
            float(np.log(one.fp32_tflops / two.fp32_tflops)),
            float(np.log(one.bandwidth_gb_per_s / two.bandwidth_gb_per_s)),
        )
    return {
        **described,
        "log_peak_ratio": np.full(n, ratio[0]),
        "log_bandwidth_ratio": np.full(n, ratio[1]),
        "pair": np.full(n, f"{here}>{there}", dtype=object),
        "job": np.full(n, job, dtype=object),
        "model": np.full(n, model, dtype=object),
    }


def joined(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of several tables in one."""
    return {n: np.concatenate([t[n] for t in tables]) for n in (*COLUMNS, *LABELS)}


def table(X: Any) -> dict[str, Any]:
    """`COLUMNS` and `LABELS` of a mapping or DataFrame.

    Raises:
        ValueError: A column is missing or shorter than another, or a feature is no number.
    """
    names = X.keys() if isinstance(X, Mapping) else X.columns
    missing = [n for n in (*COLUMNS, *LABELS) if n not in names]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(map(str, names))}")
    found: dict[str, Any] = {n: np.asarray(X[n], dtype=float) for n in COLUMNS}
    found |= {n: np.asarray(X[n], dtype=object) for n in LABELS}
    one_length(found)
    for name in FEATURES:
        bad = ~np.isfinite(found[name])
        if np.any(bad):
            row = int(np.argmax(bad))
            raise ValueError(
                f"column {name!r} must hold numbers: row {row} is {found[name][row]:g};"
                " describe() makes them of measured times"
            )
    return found
