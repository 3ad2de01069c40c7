"""`MachineRegressor`: the step time of a job on another GPU type, as a distribution.

What is predicted is log(time there / time here) of one GPU at one micro-batch. Its mean comes from
data sheets: a step is bound partly by arithmetic, partly by memory and partly by neither, so that
the ratio of peaks and that of bandwidths each count for a share (`_SHARES`; the roofline of
Williams et al. 2009, softened). What other jobs measured on both types is interpolated by a
Gaussian process (`predictors.kriging`) over how a job runs here: its time, batch, growth with the
batch, how far the time is off a line in the batch, and image size. Jobs, and models, have an error
of their own, which one probe on the asked type tells. Part of it belongs to what does not grow with
the batch (launches, small kernels) and fades, as that share of the time does, with larger batches.

Jobs on the same ordered pair of types speak first. Where there are next to none, data sheets tell
the level, with a wide interval, and jobs of all pairs how a time off its line here shows there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Z
from predictors import kriging, machine_rows
from predictors.estimator import Estimator
from predictors.features import take, targets
from predictors.kriging import Block, Posterior
from predictors.machine_rows import COLUMNS, FEATURES, LABELS, joined

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

GUESS: Mapping[str, float] = {
    "near": 0.1,
    "far": 0.15,
    **{f"line_{name}": 0.05 for name in FEATURES},
    "job": 0.05,
    "job_slope": 0.03,
    "job_curve": 0.03,
    "model": 0.05,
    "job_fixed": 0.15,
    "model_fixed": 0.15,
    "noise": 0.03,
}
"""First guesses of the standard deviations of the parts of the covariance, in log time."""
_SHARES = (0.4, 0.4)
_SHARES_SD = 0.3
_PAIR_SD = 0.6
_UNKNOWN_SD = 1.0
_ROWS_TO_FIT = 30
"""Rows from which a pair fits scales, and speaks for itself alone."""
_MOST_ROWS = 700


class MachineRegressor(Estimator):
    """Step times on another GPU type; scikit-learn style.

    Args:
        prior: What `to_prior` gave: scales, and the ratios of known pairs. Without it everything
            is fitted to the rows.
        iterations: Most steps of the fit of the scales.
    """

    def __init__(self, prior: Mapping[str, Any] | None = None, iterations: int = 12) -> None:
        self.prior = prior
        self.iterations = iterations

    # ---- fitting

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from jobs measured on both types.

        Args:
            X: Mapping or DataFrame with `COLUMNS` and `LABELS`; may be empty where there is a
                prior.
            y: Times of a step there, s, shape (n,).

        Raises:
            ValueError: A column is missing, or a time is not a positive number.
        """
        table = machine_rows.table(X)
        n = len(table["log_here"])
        times = np.zeros(0) if self.prior is not None and not n else targets(y, n, unit="s")
        self.n_features_in_ = len(COLUMNS) + len(LABELS)
        if self.prior is None:
            values = np.stack([table[name] for name in FEATURES], axis=1)
            self.centre_: Array = values.mean(axis=0) if n else np.zeros(len(FEATURES))
            spread = values.std(axis=0) if n else np.ones(len(FEATURES))
            self.spread_: Array = np.where(spread > 1e-9, spread, 1.0)
            self.lines_: dict[str, list[float]] = {}
        else:
            self.centre_ = np.asarray(self.prior["centre"])
            self.spread_ = np.asarray(self.prior["spread"])
            self.lines_ = dict(self.prior["lines"])
        self.table_: dict[str, Any] = table
        self.miss_: Array = self._misses(table, times)
        self.noise_: Array = np.ones(n)
        self._fit_scales()
        self._extra: tuple[dict[str, Any], Array] | None = None
        self._posteriors: dict[str, tuple[NDArray[np.intp], Posterior]] = {}
        self._fit_widening()
        return self

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Take in probes of the job that will be asked for; scales stay as they are."""
        self._check_fitted()
        table = machine_rows.table(X)
        miss = self._misses(table, targets(y, len(table["log_here"]), unit="s"))
        self._extra = (table, miss)
        return self

    def with_probes(self, X: Any, y: Any) -> MachineRegressor:
        """A copy of the regressor that has also seen these probes (`partial_fit`)."""
        return copy.copy(self).partial_fit(X, y)

    def _misses(self, table: Mapping[str, Any], there_s: Array) -> Array:
        """log(time there / time here) less the mean function."""
        if not len(there_s):
            return np.zeros(0)
        miss: Array = np.log(there_s) - table["log_here"] - self._mean(table)
        return miss

    def _fit_scales(self) -> None:
        if self.prior is not None:
            self.log_sd_: Array = np.log([self.prior["scales"][name] for name in GUESS])
            self.widening_: tuple[float, float] = tuple(self.prior["widening"])
            return
        self.log_sd_ = np.log(np.asarray(list(GUESS.values())))
        blocks, members = [], []
        for index in self._pairs(least=_ROWS_TO_FIT).values():
            part = take(self.table_, index)
            parts = self._parts(part, part)
            blocks.append(Block(parts=parts, y=self.miss_[index] - self.miss_[index].mean()))
            members.append(index)
        if not blocks:
            return
        # Both directions of a pair tell nearly the same; every second one fits the scales.
        names = sorted(self._pairs(least=_ROWS_TO_FIT))
        chosen = [i for i, n in enumerate(names) if n < ">".join(reversed(n.split(">")))]
        chosen = chosen or list(range(len(names)))
        self.log_sd_, _ = kriging.fit_scales(
            [blocks[i] for i in chosen], list(GUESS.values()), iterations=self.iterations
        )
        for block, index in zip(blocks, members, strict=True):
            self.noise_[index] = kriging.noise_factor(block, self.log_sd_)

    def _pairs(self, *, least: int) -> dict[str, NDArray[np.intp]]:
        found = {str(p): np.flatnonzero(self.table_["pair"] == p) for p in set(self.table_["pair"])}
        return {p: found[p] for p in sorted(found) if len(found[p]) >= least}

    def _fit_widening(self) -> None:
        """Factors on the spread, without and with a probe, from models held out one by one."""
        if self.prior is not None:
            return
        without: list[Array] = []
        probed: list[Array] = []
        noise = np.exp(2 * self.log_sd_[-1])
        for index in self._pairs(least=_ROWS_TO_FIT).values():
            posterior = self._posterior(index)
            models, jobs = self.table_["model"][index], self.table_["job"][index]
            for model in sorted(set(models)):
                out = np.flatnonzero(models == model)
                error, covariance = posterior.left_out(out)
                covariance = covariance - np.diag(noise * (self.noise_[index[out]] - 1))
                for job in sorted(set(jobs[out])):
                    of = np.flatnonzero(jobs[out] == job)
                    own = covariance[np.ix_(of, of)]
                    without.append(np.abs(error[of]) / _sd(own))
                    known = np.arange(len(of)) == len(of) // 2
                    left, rest = kriging.given(-error[of], own, known, np.zeros(1))
                    if len(left):
                        probed.append(np.abs(left) / _sd(rest))
        groups = len(set(self.table_["model"])) or 1
        self.widening_ = (
            kriging.widening(without, groups=groups),
            kriging.widening(probed, groups=groups),
        )

    # ---- predicting

    def predict(self, X: Any) -> Array:
        """Median step times there, s, shape (n,)."""
        log_ratio, _ = self.log_moments(X)
        times: Array = np.exp(machine_rows.table(X)["log_here"] + log_ratio)
        return times

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of the step time there, s, shape (n, len(LEVELS))."""
        log_ratio, sd = self.log_moments(X)
        centre = machine_rows.table(X)["log_here"] + log_ratio
        quantiles: Array = np.exp(centre[:, None] + sd[:, None] * np.asarray(Z))
        return quantiles

    def log_moments(self, X: Any) -> tuple[Array, Array]:
        """Mean and standard deviation of log(time there / time here), each (n,)."""
        self._check_fitted()
        table = machine_rows.table(X)
        mean, sd = np.zeros(len(table["log_here"])), np.zeros(len(table["log_here"]))
        for pair in sorted(set(table["pair"])):
            asked = np.flatnonzero(table["pair"] == pair)
            mean[asked], sd[asked] = self._moments(str(pair), take(table, asked))
        return mean, sd

    def jobs_of(self, pair: str) -> int:
        """How many jobs were measured on both types of an ordered pair, `here>there`."""
        self._check_fitted()
        return len(set(self.table_["job"][self.table_["pair"] == pair]))

    def _moments(self, pair: str, asked: dict[str, Any]) -> tuple[Array, Array]:
        n = len(asked["log_here"])
        table, miss = asked, np.zeros(0)
        if self._extra is not None:
            extra, all_misses = self._extra
            near = extra["pair"] == pair
            table, miss = joined([asked, take(extra, near)]), all_misses[near]
        known = np.arange(len(table["log_here"])) >= n
        index, posterior = self._rows_for(pair)
        cross = self._covariance(table, take(self.table_, index))
        own = self._covariance(table, table)
        own[np.diag_indices(len(own))] += np.exp(2 * self.log_sd_[-1])
        mean, covariance = posterior.at(cross, own)
        left, rest = kriging.given(mean, covariance, known, miss)
        # Rows of other pairs leave the spread as wide as the covariance has it, which is enough.
        widening = self.widening_[int(np.any(known))] if self._has_own_rows(pair) else 1.0
        return left + self._mean(asked), _sd(rest) * widening

    def _has_own_rows(self, pair: str) -> bool:
        return int(np.sum(self.table_["pair"] == pair)) >= _ROWS_TO_FIT

    def _rows_for(self, pair: str) -> tuple[NDArray[np.intp], Posterior]:
        """Rows of the pair where there are enough, else of all pairs, and what they say."""
        own = np.flatnonzero(self.table_["pair"] == pair)
        key = pair if self._has_own_rows(pair) else ""
        if key not in self._posteriors:
            n = len(self.miss_)
            index = own if key else np.arange(n)[:: -(-n // _MOST_ROWS) or 1]
            self._posteriors[key] = (index, self._posterior(index))
        index, posterior = self._posteriors[key]
        return index, posterior

    def _posterior(self, index: NDArray[np.intp]) -> Posterior:
        part = take(self.table_, index)
        covariance = self._covariance(part, part)
        noise = np.exp(2 * self.log_sd_[-1]) * self.noise_[index]
        return Posterior.of(covariance + np.diag(noise), self.miss_[index])

    # ---- the mean and the covariance

    def _scaled(self, table: Mapping[str, Any]) -> Array:
        values = np.stack([table[name] for name in FEATURES], axis=1)
        scaled: Array = (values - self.centre_) / self.spread_
        return scaled

    def _mean(self, table: Mapping[str, Any]) -> Array:
        sheets = np.stack([table["log_peak_ratio"], table["log_bandwidth_ratio"]], axis=1)
        mean: Array = np.nan_to_num(sheets) @ np.asarray(_SHARES)
        if self.lines_:
            design = np.concatenate([np.ones((len(mean), 1)), self._scaled(table)], axis=1)
            for pair in set(table["pair"]) & set(self.lines_):
                at = table["pair"] == pair
                mean[at] = np.clip(design[at], -2, 2) @ np.asarray(self.lines_[pair])
        return mean

    def _parts(self, one: Mapping[str, Any], two: Mapping[str, Any]) -> Array:
        """Covariances at size 1 of rows of one pair, in the order of `GUESS`."""
        a, b = self._scaled(one), self._scaled(two)
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        octaves = [(t["log_micro_batch"] / np.log(2) - 6) / 2 for t in (one, two)]
        job = kriging.alike(one["job"], two["job"])
        lines = [np.outer(a[:, i], b[:, i]) for i in range(len(FEATURES))]
        away = octaves[0][:, None] - octaves[1][None]
        model = kriging.alike(one["model"], two["model"])
        # Squared: a small share is often but an uneven curve.
        fixed = np.outer(one["fixed"] ** 2, two["fixed"] ** 2)
        return np.stack(
            [
                np.exp(-squared / 2),
                np.exp(-squared / 2 / 2.5**2),
                *lines,
                job,
                job * np.outer(*octaves),
                job * np.exp(-((away / 0.75) ** 2) / 2),
                model,
                job * fixed,
                model * fixed,
                np.eye(len(a), len(b)),
            ]
        )

    def _covariance(self, one: Mapping[str, Any], two: Mapping[str, Any]) -> Array:
        """Without noise, between rows of any pairs, shape (n, m)."""
        parts = np.exp(2 * self.log_sd_)[:, None, None] * self._parts(one, two)
        same = kriging.alike(one["pair"], two["pair"])
        # An uneven curve here is uneven for any pair; which jobs gain most differs by pair.
        common = parts[2 + FEATURES.index("bend")]
        own = parts[:-1].sum(axis=0) - common
        sheets = [
            np.nan_to_num(np.stack([t["log_peak_ratio"], t["log_bandwidth_ratio"]], axis=1))
            for t in (one, two)
        ]
        level = np.outer(self._level_sd(one), self._level_sd(two))
        covariance: Array = common + same * (own + level)
        covariance += _SHARES_SD**2 * sheets[0] @ sheets[1].T
        return covariance

    def _level_sd(self, table: Mapping[str, Any]) -> Array:
        """How far the ratio of a pair may be from its mean function."""
        sd = np.where(np.isnan(table["log_peak_ratio"]), _UNKNOWN_SD, _PAIR_SD)
        if self.lines_ and self.prior is not None:
            known = np.asarray([pair in self.lines_ for pair in table["pair"]])
            sd = np.where(known, float(self.prior["line_sd"]), sd)
        return sd

    # ---- keeping

    def to_prior(self) -> dict[str, Any]:
        """What the fit learned, as plain JSON values and without its rows: see `prior`."""
        self._check_fitted()
        lines: dict[str, list[float]] = {}
        errors: list[float] = []
        for pair, index in self._pairs(least=_ROWS_TO_FIT).items():
            part = take(self.table_, index)
            scaled = np.clip(self._scaled(part), -2, 2)
            design = np.concatenate([np.ones((len(index), 1)), scaled], axis=1)
            ratio = self.miss_[index] + self._mean(part)
            ridge = np.diag([0.0, *np.ones(len(FEATURES))])
            weight = 1 / self.noise_[index]
            normal = design.T @ (weight[:, None] * design) + ridge
            line = np.linalg.solve(normal, design.T @ (weight * ratio))
            lines[pair] = [round(float(v), 4) for v in line]
            errors += list(ratio - design @ line)
        return {
            "kind": "machines/1",
            "features": list(FEATURES),
            "centre": [round(float(v), 4) for v in self.centre_],
            "spread": [round(float(v), 4) for v in self.spread_],
            "scales": {
                name: round(float(np.exp(v)), 4)
                for name, v in zip(GUESS, self.log_sd_, strict=True)
            },
            "widening": [round(v, 3) for v in self.widening_],
            "lines": lines,
            "line_sd": round(float(np.std(errors)) if errors else _PAIR_SD, 4),
            "rows": len(self.miss_),
        }


def _sd(covariance: Array) -> Array:
    sd: Array = np.sqrt(np.maximum(np.diag(covariance), 1e-8))
    return sd
