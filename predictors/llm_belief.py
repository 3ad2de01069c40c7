"""What is known of the law of language models: one Gaussian over its parameters and its misfits.

The law's parts are not quite what the law says, and miss alike where shapes are alike. Every part
that depends on kernels has a factor exp(delta(shape)), with delta a Gaussian process over octaves
of the shape (Rasmussen and Williams 2006, equations 2.22 to 2.24). An iteration is a sum of parts
times known counts, so that rows with other numbers of layers, micro-batches or replicas tell of the
same deltas: what is learned at one depth holds at any other. Beside them stand factors of whole
parts, by which another cluster or job may differ.

Rows are taken in by Levenberg-Marquardt steps (Marquardt 1963, doi:10.1137/0111030) of the log time
towards the most probable values, with a Gaussian around them (Laplace's approximation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors import llm_law
from predictors.llm_law import PARAMETERS, PARTS, Table

if TYPE_CHECKING:
    from planner.core.distribution import Array

MISFIT: dict[str, tuple[float, float]] = {
    "compute": (0.2, 0.5),
    "tensor": (0.6, 0.2),
    "head": (0.2, 0.1),
    "embedding": (0.5, 0.2),
    "data": (0.25, 0.2),
    "fixed": (1.0, 0.2),
}
"""Prior standard deviation of delta, by part, and the share of its variance that differs between
shapes however near, as kernels are chosen by size. Parts that are left out are as the law says."""
ELSEWHERE_SIGMA: dict[str, float] = {
    "compute": 0.1,
    "tensor": 0.3,
    "head": 0.2,
    "embedding": 0.3,
    "pipeline": 0.5,
    "optimizer": 0.3,
    "data": 0.4,
    "fixed": 0.5,
}
"""Standard deviation of the logarithm of a part in another job or on another cluster, alone."""
_TOGETHER_SIGMA = 0.15
"""The same of all parts together: clocks, software, stragglers."""
_FLOORS = (0.1, 0.02, 0.0)
"""Least noise while the law's parameters, then the deltas, find their place: exact rows all at once
lead to whatever optimum is near."""
_STEPS = 40
_LARGEST = 2.0
"""Bound of a step, in standard deviations of what is updated."""
_STEP = 1e-5
_UNIT = 1e-6
"""Far below the noise of any row, and its multiples are short to write."""
_HEAD = len(PARAMETERS) + len(PARTS)


def shapes(part: str, c: Table) -> Array:
    """Where a part's delta is taken, in lengths over which it is alike; (rows, dimensions)."""
    octave = {name: np.log2(c[name]) for name in llm_law.COLUMNS}
    if part == "tensor":
        axes = [np.log2(llm_law.message_bytes(c)) / 1.5, octave["tp"]]
    elif part == "data":
        axes = [np.log2(llm_law.stage_parameters(c)) / 1.5, octave["dp"]]
    elif part == "fixed":
        axes = [2.0 * (c["tp"] > 1), 2.0 * (c["pp"] > 1)]
    else:
        wide = [octave[n] / 2 for n in ("hidden_size", "attention_heads", "seq_len")]
        axes = [*wide, octave["tp"], octave["micro_batch_size"]]
    return np.stack(axes, axis=1)


def alike(part: str, here: Array, there: Array) -> Array:
    """Prior covariance of a part's delta, shape (here, there)."""
    distance = ((here[:, None, :] - there[None, :, :]) ** 2).sum(axis=2)
    smooth = np.exp(-0.5 * distance)
    same = (distance < 1e-12).astype(float)
    sigma, rough = MISFIT[part]
    result: Array = sigma**2 * ((1 - rough) * smooth + rough * same)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Some rows, and how the deltas of each part there follow from the known ones.

    Attributes:
        columns: Configurations.
        weights: On the known deltas of each part, shape (rows, known).
        left: Variance that those leave, shape (rows,).
    """

    columns: Table
    weights: Mapping[str, Array]
    left: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A Gaussian over log-parameters, factors of parts elsewhere, and deltas at known shapes.

    Attributes:
        mean: Shape (p,): `PARAMETERS`, one factor for each of `PARTS`, then the deltas.
        root: Shape (p, r); the covariance is root root^T, which stays one whatever the rounding.
        known: For each part with a misfit, the shapes of its deltas, in the order of `mean`.
    """

    mean: Array
    root: Array
    known: Mapping[str, Array]

    @classmethod
    def prior(cls, c: Table) -> Belief:
        """Before any row was seen, with deltas at the shapes of some rows.

        Args:
            c: Rows whose shapes will be needed.
        """
        mean, sd = llm_law.prior()
        apart = np.asarray([ELSEWHERE_SIGMA[part] for part in PARTS])
        together = np.repeat([0.0, _TOGETHER_SIGMA], [len(sd), len(PARTS)])
        none = cls(
            mean=np.concatenate([mean, np.zeros(len(PARTS))]),
            root=np.column_stack([np.diag(np.concatenate([sd, apart])), together]),
            known={part: np.zeros((0, shapes(part, c).shape[1])) for part in MISFIT},
        )
        return none.at(c)

    def at(self, c: Table) -> Belief:
        """The same with deltas at the shapes of further rows."""
        found = self
        for part in MISFIT:
            asked = np.unique(shapes(part, c).round(9), axis=0)
            old = found.known[part]
            apart = ((asked[:, None, :] - old[None, :, :]) ** 2).sum(axis=2) > 1e-12
            new = asked[apart.all(axis=1)]
            if len(new):
                found = found._with(part, new)
        return found

    def _with(self, part: str, new: Array) -> Belief:
        weights, left = self.weights(part, new)
        where = self.place(part)
        k, known = len(new), self.root[where]
        own = np.linalg.cholesky(left + 1e-12 * np.eye(k))
        apart = np.zeros((len(self.mean), k))
        rows = np.concatenate([self.root, apart], axis=1)
        added = np.concatenate([weights @ known, own], axis=1)
        return Belief(
            mean=np.concatenate(
                [self.mean[: where.stop], weights @ self.mean[where], self.mean[where.stop :]]
            ),
            root=np.concatenate([rows[: where.stop], added, rows[where.stop :]]),
            known={**self.known, part: np.concatenate([self.known[part], new])},
        )

    def weights(self, part: str, here: Array) -> tuple[Array, Array]:
        """Deltas elsewhere from the known ones.

        Returns:
            Weights on the known, shape (here, known), and the covariance left, (here, here).
        """
        there = self.known[part]
        among = alike(part, there, there) + 1e-10 * np.eye(len(there))
        cross = alike(part, here, there)
        weights: Array = np.linalg.solve(among, cross.T).T.astype(float)
        return weights, alike(part, here, here) - weights @ cross.T

    def place(self, part: str) -> slice:
        """Where the deltas of a part are in `mean`."""
        start = _HEAD
        for name, there in self.known.items():
            if name == part:
                return slice(start, start + len(there))
            start += len(there)
        raise KeyError(part)

    def update(self, c: Table, y: Array, sigma: Array, *, elsewhere: Array) -> Belief:
        """Take in measured rows whose shapes are known.

        Args:
            c: Configurations.
            y: log(s).
            sigma: Standard deviation of each measurement's logarithm.
            elsewhere: Of each row, whether the factors of parts count (1.0) or not (0.0).
        """
        design, at = self.design(c), np.zeros(self.root.shape[1])
        for floor in _FLOORS:
            at, slope = self._most_probable(design, y, np.maximum(sigma, floor), elsewhere, at)
        squares, axes = _principal(slope)
        shrunk = (self.root @ axes) * (1 - 1 / np.sqrt(1 + squares))
        return replace(self, mean=self.mean + self.root @ at, root=self.root - shrunk @ axes.T)

    def apart(self, sigma: float) -> Belief:
        """The same with all parts together elsewhere unsure by so much more, of the logarithm."""
        more = np.zeros((len(self.mean), 1))
        more[len(PARAMETERS) : _HEAD] = sigma
        return replace(self, root=np.concatenate([self.root, more], axis=1))

    def foresee(self, c: Table, elsewhere: Array) -> tuple[Array, Array]:
        """log(s) of some rows, and the covariance of its errors, without their noise."""
        found, J, unknown = self.linearise(self.design(c), elsewhere)
        foreseen = J @ self.root
        return found, foreseen @ foreseen.T + np.diag(unknown)

    def log_likelihood(self, c: Table, y: Array, sigma: Array, *, elsewhere: Array) -> float:
        """Log density of some rows as this belief foresees them, without the constant.

        Args: as for `update`.
        """
        found, covariance = self.foresee(c, elsewhere)
        covariance = covariance + np.diag(sigma**2)
        left = y - found
        _, size = np.linalg.slogdet(covariance)
        return -0.5 * float(size + left @ np.linalg.solve(covariance, left))

    def _most_probable(
        self, design: Design, y: Array, sigma: Array, elsewhere: Array, start: Array
    ) -> tuple[Array, Array]:
        """Where the posterior is highest, whitened, and what the rows tell there."""

        def at(point: Array) -> tuple[Array, Array]:
            moved = replace(self, mean=self.mean + self.root @ point)
            found, J, _ = moved.linearise(design, elsewhere)
            return (found - y) / sigma, J @ self.root / sigma[:, None]

        here, (left, slope), damping = start, at(start), 1e-2
        cost, told = float(left @ left + here @ here), _products(slope)
        for _ in range(_STEPS):
            step = _damped(slope, told, slope.T @ left + here, 1 + damping)
            trial = here - np.clip(step, -_LARGEST, _LARGEST)
            new_left, new_slope = at(trial)
            gain = cost - float(new_left @ new_left + trial @ trial)
            damping = float(np.clip(damping / 5 if gain > 0 else damping * 4, 1e-9, 1e9))
            if gain > 0:
                here, left, slope, cost = trial, new_left, new_slope, cost - gain
                told = _products(slope)
            if abs(gain) < 1e-5 * (1 + cost) and (gain > 0 or damping > 1e3):
                break
        return here, slope

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; the covariance's root in whole `_UNIT`s."""
        triangle = np.transpose(np.linalg.qr(self.root.T).R)  # the same in half the numbers
        return {
            "mean": _short(self.mean, 6),
            "root": [
                [round(float(v) / _UNIT) for v in row[: i + 1]] for i, row in enumerate(triangle)
            ],
            "known": {
                part: [_short(row, 12) for row in there] for part, there in self.known.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Belief:
        """What `to_json` gave."""
        root = np.zeros((len(data["mean"]),) * 2)
        for i, row in enumerate(data["root"]):
            root[i, : len(row)] = np.asarray(row) * _UNIT
        return cls(
            mean=np.asarray(data["mean"], dtype=float),
            root=root,
            known={part: np.asarray(data["known"][part], dtype=float) for part in MISFIT},
        )

    def design(self, c: Table) -> Design:
        """How some rows' deltas follow from the known ones."""
        weights, left = {}, {}
        for part in MISFIT:
            unique, back = np.unique(shapes(part, c).round(9), axis=0, return_inverse=True)
            on_known, unknown = self.weights(part, unique)
            weights[part] = on_known[back]
            left[part] = np.maximum(np.diag(unknown), 0.0)[back]
        return Design(columns=c, weights=weights, left=left)

    def linearise(self, design: Design, elsewhere: Array) -> tuple[Array, Array, Array]:
        """log(s) of an iteration at the mean, its derivatives, and the variance of unknown deltas.

        Returns:
            Shapes (rows,), (rows, p) and (rows,).
        """
        theta, factors = self.mean[: len(PARAMETERS)], self.mean[len(PARAMETERS) : _HEAD]
        log_factor = factors[:, None] * elsewhere
        for part, weights in design.weights.items():
            log_factor[PARTS.index(part)] += weights @ self.mean[self.place(part)]
        share, total, slopes = _with_slopes(theta, design.columns, np.exp(log_factor))
        J = np.zeros((len(total), len(self.mean)))
        J[:, : len(PARAMETERS)] = slopes
        J[:, len(PARAMETERS) : _HEAD] = (share * elsewhere).T
        unknown = np.zeros(len(total))
        for part, weights in design.weights.items():
            own = share[PARTS.index(part)]
            J[:, self.place(part)] = own[:, None] * weights
            unknown += own**2 * design.left[part]
        return np.log(total), J, unknown


def _with_slopes(theta: Array, c: Table, factor: Array) -> tuple[Array, Array, Array]:
    """Shares of the parts, seconds, and the derivatives of their logarithm by the parameters."""
    found = llm_law.parts(theta, c) * factor
    total = found.sum(axis=0)
    slopes = np.empty((len(total), len(theta)))
    for i in range(len(theta)):
        moved = theta.copy()
        moved[i] += _STEP
        slopes[:, i] = np.log((llm_law.parts(moved, c) * factor).sum(axis=0) / total) / _STEP
    return found / total, total, slopes


def _products(slope: Array) -> Array:
    """Products of what rows tell, of rows or of unknowns, whichever are fewer."""
    product: Array = slope @ slope.T if len(slope) < slope.shape[1] else slope.T @ slope
    return product


def _damped(slope: Array, products: Array, gradient: Array, damping: float) -> Array:
    """(damping + slope^T slope)^-1 gradient, by the smaller of two equal systems (Woodbury)."""
    damped = products + damping * np.eye(len(products))
    if len(slope) < slope.shape[1]:
        across = slope.T @ np.linalg.solve(damped, slope @ gradient)
        return np.asarray((gradient - across) / damping)
    return np.asarray(np.linalg.solve(damped, gradient))


def _principal(slope: Array) -> tuple[Array, Array]:
    """Squared singular values of what rows tell, and their directions, by the smaller product."""
    if len(slope) < slope.shape[1]:
        squares, across = np.linalg.eigh(slope @ slope.T)
        told = squares > 1e-9
        axes = slope.T @ across[:, told] / np.sqrt(squares[told])
        return squares[told], axes
    squares, axes = np.linalg.eigh(slope.T @ slope)
    return np.maximum(squares, 0.0), axes


def _short(values: Array, digits: int) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values]
