"""`ScaleOutRegressor`: time to train on larger systems of a family, from its smallest one.

When the number of GPUs grows, and the global batch with it, a run changes in three ways: epochs to
the target grow with the batch beyond a critical one (McCandlish et al. 2018, arXiv:1812.06162), a
GPU works less efficiently on its smaller share, and what does not divide (start, evaluation,
synchronisation) takes a larger part. All of it shows in one number, the GPU-time

    log(time to train * GPUs) = benchmark + GPU type + family
                                + growth(GPUs, global batch, size of the benchmark)
                                + growth of this benchmark(GPUs, global batch, speed of the family)

which a sum of Gaussian processes interpolates over every system known (`predictors.kriging`). The
growth that benchmarks share lets an unknown benchmark have a sensible one, with a wide interval:
what is small in GPU-time is the first to stop scaling. The smallest system of a family tells its
level; the first measured systems of another family tell nothing but growth.

That process follows closely how systems of the known rounds grew, and errs most on faster or much
larger ones. A law of one number for each benchmark errs elsewhere,

    GPU-time / that of the smallest system = 1 + share (ratio^0.7 - 1),   ratio of GPUs,

which is Amdahl's (1967, exponent 1) bent, as what does not divide shrinks a little where more GPUs
share it. A weighted mean of both logarithms errs less than either; where they disagree the interval
is wider, as that of a mixture is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Z
from predictors import kriging
from predictors.columns import one_length, positive
from predictors.estimator import Estimator
from predictors.features import take, targets
from predictors.kriging import Block, Posterior

if TYPE_CHECKING:
    from planner.core.distribution import Array


COLUMNS: tuple[str, ...] = ("gpus", "nodes", "global_batch")
"""Numbers of a row: counts, and samples of a step. Nodes and batches may be not-a-number: then
there are 8 GPUs to a node, and a sample to a GPU."""
LABELS: tuple[str, ...] = ("benchmark", "gpu", "family")
"""Labels of a row. A family is a set of systems that differ in size only; its smallest one must be
among the rows of `fit` for the others to be predicted well."""

GUESS: Mapping[str, float] = {
    "benchmark": 3.0,
    "gpu": 0.6,
    "benchmark_gpu": 0.15,
    "family": 0.06,
    "family_gpus": 0.015,
    "family_nodes": 0.1,
    "gpus": 0.12,
    "size_gpus": 0.05,
    "batch": 0.1,
    "nodes": 0.1,
    "growth": 0.4,
    "benchmark_gpus": 0.07,
    "benchmark_batch": 0.07,
    "benchmark_nodes": 0.1,
    "benchmark_growth": 0.3,
    "noise": 0.06,
}
"""First guesses of the standard deviations of the parts of the covariance, in log time."""
_LEVEL_SD = 5.0
_OCTAVES = 4.0
"""Octaves of GPUs and of batch over which growth changes its course."""
_SIZE = 1.5
"""The same for the logarithm of a benchmark's GPU-time."""
_SPEED = 1.0
_USUAL_GPUS_LOG2 = 4.0
_USUAL_SIZE = 10.0
"""Logarithm of the GPU-time in s that most runs need on their smallest system."""
_MOST_ROWS_TO_FIT = 260
_LAW_WEIGHT = 0.6
"""Of the law beside the process."""
_EXPONENT = 0.7
_SHARES = np.concatenate([[0.0], np.geomspace(1e-3, 2.0, 200)])
_POOLED_SYSTEMS = 1.0
"""All benchmarks count as much as so many systems of the benchmark itself."""


class ScaleOutRegressor(Estimator):
    """Time to train on other sizes of a system; scikit-learn style.

    Args:
        prior: What `to_prior` gave: scales; without it they are fitted to the rows.
        iterations: Most steps of the fit of the scales.
    """

    def __init__(self, prior: Mapping[str, Any] | None = None, iterations: int = 8) -> None:
        self.prior = prior
        self.iterations = iterations

    # ---- fitting

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from systems of any family, the smallest one of the asked family among them.

        Args:
            X: Mapping or DataFrame with `COLUMNS` and `LABELS`.
            y: Times to train, s, shape (n,).

        Raises:
            ValueError: A column is missing, or a time or a count is not a positive number.
        """
        table = _table(X)
        n = len(table["gpus"])
        self.n_features_in_ = len(COLUMNS) + len(LABELS)
        self.y_: Array = np.log(targets(y, n, unit="s") * table["gpus"])
        self.table_: dict[str, Any] = table
        self._describe_groups()
        self.shares_: dict[str, float] = self._fit_shares()
        self.level_ = float(np.mean(self.y_))
        self.log_sd_: Array = np.log(list(GUESS.values()))
        self.noise_: Array = np.ones(n)
        self.widening_ = 1.0
        if self.prior is not None:
            self.log_sd_ = np.log([self.prior["scales"][name] for name in GUESS])
            self.widening_ = float(self.prior["widening"])
        elif n > 10:
            self._fit_scales()
        covariance = self._covariance(table, table) + np.diag(self._noise())
        self._posterior = Posterior.of(covariance, self.y_ - self.level_)
        if self.prior is None:
            self.widening_ = self._fit_widening()
        return self

    def _describe_groups(self) -> None:
        """Smallest systems by family, their GPU-time, and its median by benchmark; logarithms."""
        table = self.table_
        self.least_: dict[str, float] = {}
        self.size_: dict[str, float] = {}
        sizes: dict[str, list[float]] = {}
        for family in sorted(set(table["family"])):
            rows = np.flatnonzero(table["family"] == family)
            self.least_[family] = float(table["gpus"][rows].min())
            small = rows[table["gpus"][rows] == self.least_[family]]
            self.size_[family] = float(np.mean(self.y_[small]))
            sizes.setdefault(str(table["benchmark"][small[0]]), []).append(self.size_[family])
        self.usual_: dict[str, float] = {name: float(np.median(v)) for name, v in sizes.items()}
        batch = np.log2(table["global_batch"])
        self.batch_: dict[str, float] = {
            name: float(np.mean(batch[table["benchmark"] == name])) for name in self.usual_
        }

    def _fit_scales(self) -> None:
        """On families of several sizes, and others only as far as a fit stays quick."""
        counts = {f: int(np.sum(self.table_["family"] == f)) for f in set(self.table_["family"])}
        many = np.asarray([counts[f] > 1 for f in self.table_["family"]])
        order = np.concatenate([np.flatnonzero(many), np.flatnonzero(~many)])
        index = np.sort(order[:_MOST_ROWS_TO_FIT])
        part = take(self.table_, index)
        y = self.y_[index] - self.level_
        parts = self._parts(part, part)
        fixed = np.full((1, len(y), len(y)), _LEVEL_SD**2 / GUESS["benchmark"] ** 2)
        parts[0] += fixed[0]
        self.log_sd_, factors = kriging.fit_scales(
            [Block(parts=parts, y=y)], list(GUESS.values()), iterations=self.iterations
        )
        self.noise_[index] = factors[0]

    def _fit_widening(self) -> float:
        """From families whose larger systems are held out one family after another."""
        scores: list[Array] = []
        noise = np.exp(2 * self.log_sd_[-1])
        gpus = self.table_["gpus"]
        for family in self.size_:
            rows = np.flatnonzero(self.table_["family"] == family)
            large = rows[gpus[rows] > gpus[rows].min()]
            if len(large):
                error, covariance = self._posterior.left_out(large)
                variance = np.diag(covariance) - noise * (self.noise_[large] - 1)
                mean, variance = self._with_law(
                    take(self.table_, large),
                    self.y_[large] - error,
                    variance,
                    self._fit_shares(left_out=family),
                )
                scores.append(np.abs(self.y_[large] - mean) / np.sqrt(np.maximum(variance, 1e-8)))
        return kriging.widening(scores, groups=len(scores))

    def _noise(self) -> Array:
        noise: Array = np.exp(2 * self.log_sd_[-1]) * self.noise_
        return noise

    # ---- predicting

    def predict(self, X: Any) -> Array:
        """Median times to train, s, shape (n,)."""
        log_s, _ = self.log_moments(X)
        return np.exp(log_s)

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the time to train, s, shape (n, len(LEVELS))."""
        log_s, sd = self.log_moments(X)
        quantiles: Array = np.exp(log_s[:, None] + sd[:, None] * np.asarray(Z))
        return quantiles

    def log_moments(self, X: Any) -> tuple[Array, Array]:
        """Mean and standard deviation of the logarithm of the time to train in s, each (n,)."""
        self._check_fitted()
        table = _table(X)
        own = self._covariance(table, table) + np.exp(2 * self.log_sd_[-1]) * np.eye(
            len(table["gpus"])
        )
        mean, covariance = self._posterior.at(self._covariance(table, self.table_), own)
        both, variance = self._with_law(
            table, mean + self.level_, np.diag(covariance), self.shares_
        )
        return both - np.log(table["gpus"]), np.sqrt(np.maximum(variance, 1e-8)) * self.widening_

    # ---- the law

    def _fit_shares(self, left_out: str = "") -> dict[str, float]:
        """The share that fits each benchmark's larger systems best, and that of all ("").

        Args:
            left_out: A family that is not looked at.
        """
        table = self.table_
        least = np.asarray([self.least_[f] for f in table["family"]])
        larger = (table["gpus"] > least) & (table["family"] != left_out)
        if not np.any(larger):
            return {}
        ratio = (table["gpus"] / least)[larger]
        growth = (self.y_ - np.asarray([self.size_[f] for f in table["family"]]))[larger]
        errors = np.abs(np.log(_grown(_SHARES[:, None], ratio)) - growth)
        pooled = _POOLED_SYSTEMS * errors.mean(axis=1)
        benchmarks = table["benchmark"][larger]
        shares = {"": float(_SHARES[int(np.argmin(pooled))])}
        for name in sorted(set(benchmarks)):
            own = errors[:, benchmarks == name].sum(axis=1)
            shares[str(name)] = float(_SHARES[int(np.argmin(own + pooled))])
        return shares

    def _with_law(
        self,
        table: Mapping[str, Any],
        mean: Array,
        variance: Array,
        shares: Mapping[str, float],
    ) -> tuple[Array, Array]:
        """Mean and variance of log GPU-time, averaged with the law where a family is known."""
        law = mean.copy()
        labels = zip(table["family"], table["benchmark"], table["gpus"], strict=True)
        for i, (family, benchmark, gpus) in enumerate(labels):
            share = shares.get(benchmark, shares.get(""))
            if family in self.size_ and share is not None:
                growth = _grown(share, max(gpus / self.least_[family], 1.0))
                law[i] = self.size_[family] + np.log(growth)
        away = law - mean
        return mean + _LAW_WEIGHT * away, variance + _LAW_WEIGHT * (1 - _LAW_WEIGHT) * away**2

    # ---- the covariance

    def _axes(self, table: Mapping[str, Any]) -> dict[str, Array]:
        """Where rows lie: octaves of GPUs and batch, several nodes or one, size and speed."""
        octaves = np.log2(table["global_batch"])
        typical = [self.batch_.get(b) for b in table["benchmark"]]
        centre = np.asarray([o if t is None else t for o, t in zip(octaves, typical, strict=True)])
        usual = np.asarray([self.usual_.get(b, _USUAL_SIZE) for b in table["benchmark"]])
        size = np.asarray([self.size_.get(f, np.nan) for f in table["family"]])
        return {
            "gpus": np.log2(table["gpus"]) - _USUAL_GPUS_LOG2,
            "batch": octaves - centre,
            "nodes": (table["nodes"] > 1).astype(float),
            "size": usual - _USUAL_SIZE,
            "speed": np.where(np.isnan(size), 0.0, usual - size),
        }

    def _parts(self, one: Mapping[str, Any], two: Mapping[str, Any]) -> Array:
        """Covariances at size 1, in the order of `GUESS`, shape (parts, n, m)."""
        a, b = self._axes(one), self._axes(two)

        def line(name: str) -> Array:
            return np.outer(a[name], b[name])

        def away(name: str, length: float) -> Array:
            squared: Array = ((a[name][:, None] - b[name][None]) / length) ** 2
            return squared

        gpus, batch, nodes = line("gpus"), line("batch"), line("nodes")
        benchmark, gpu, family = (kriging.alike(one[n], two[n]) for n in LABELS)
        near = away("gpus", _OCTAVES) + away("batch", _OCTAVES)
        return np.stack(
            [
                benchmark,
                gpu,
                benchmark * gpu,
                family,
                family * gpus,
                family * nodes,
                gpus,
                gpus * line("size"),
                batch,
                nodes,
                np.exp(-(near + away("size", _SIZE)) / 2),
                benchmark * gpus,
                benchmark * batch,
                benchmark * nodes,
                benchmark * np.exp(-(near + away("speed", _SPEED)) / 2),
                np.eye(len(a["gpus"]), len(b["gpus"])),
            ]
        )

    def _covariance(self, one: Mapping[str, Any], two: Mapping[str, Any]) -> Array:
        """Without noise, shape (n, m)."""
        sizes = np.exp(2 * self.log_sd_[:-1])
        total: Array = np.tensordot(sizes, self._parts(one, two)[:-1], 1)
        return total + _LEVEL_SD**2

    # ---- keeping

    def to_prior(self) -> dict[str, Any]:
        """What the fit learned of scales, as plain JSON values and without its rows."""
        self._check_fitted()
        return {
            "kind": "scale_out/1",
            "scales": {
                name: round(float(np.exp(v)), 4)
                for name, v in zip(GUESS, self.log_sd_, strict=True)
            },
            "widening": round(self.widening_, 3),
            "rows": len(self.y_),
        }


def _grown(share: Any, ratio: Any) -> Any:
    """GPU-time with `ratio` times as many GPUs, over that of the smallest system."""
    return 1 + share * (ratio**_EXPONENT - 1)


def rows(columns: Mapping[str, Any], *, benchmark: Any, gpu: Any, family: Any) -> dict[str, Any]:
    """Rows for the regressor; a label is one for all rows, or one for each."""
    n = len(columns["gpus"])
    labels = {"benchmark": benchmark, "gpu": gpu, "family": family}
    return {
        **{name: np.asarray(columns[name], dtype=float) for name in COLUMNS},
        **{
            name: np.full(n, value, dtype=object)
            if isinstance(value, str)
            else np.asarray(value, dtype=object)
            for name, value in labels.items()
        },
    }


def joined(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of several tables in one."""
    return {n: np.concatenate([t[n] for t in tables]) for n in (*COLUMNS, *LABELS)}


def _table(X: Any) -> dict[str, Any]:
    names = X.keys() if isinstance(X, Mapping) else X.columns
    missing = [n for n in (*COLUMNS, *LABELS) if n not in names]
    if missing:
        raise ValueError(f"missing columns {missing}; there are {sorted(map(str, names))}")
    table: dict[str, Any] = {n: np.asarray(X[n], dtype=float) for n in COLUMNS}
    labels = {n: np.asarray(X[n], dtype=object) for n in LABELS}
    one_length({**table, **labels})
    positive(table["gpus"], "gpus")
    gpus, nodes, batch = (table[n] for n in COLUMNS)
    table["nodes"] = np.where(nodes > 0, nodes, np.ceil(gpus / 8))
    table["global_batch"] = np.where(batch > 0, batch, gpus)
    return {**table, **labels}
