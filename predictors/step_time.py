"""`StepTimeRegressor`: how long one optimiser step takes, as a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import I95, Z
from predictors import residual, step_law, wild
from predictors.estimator import Estimator
from predictors.features import COLUMNS, Table, pieces, table, take, targets, weights
from predictors.misfit import (
    alike_noise,
    away_sigma,
    interpolate,
    interpolate_each,
    misfit_ratio,
    outrun,
)
from predictors.posterior import Fit, optimise, perturbations, robust
from predictors.prior import StepPrior, opened, physics
from predictors.residual import ResidualModel
from predictors.step_law import Scale
from predictors.wild import Doubt

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

_STUDENT = 12.0
"""Degrees of freedom of a row's error: a probe beside a noisy neighbour pulls little."""
_WAIT_SIGMA = 0.03
"""Error of a measured loading wait, as a fraction of the step."""
_ITERATIONS, _UPDATES, _SETTLED = 24, 4, 0.1
_Z95 = Z[I95]


class StepTimeRegressor(Estimator):
    """Time of one optimiser step, s, from a physical law fitted to this job's probes.

    The law is `predictors.step_law`. Its parameters have a prior, learned from other jobs or from
    physics alone, and are fitted as an ensemble (`predictors.posterior`). A residual model learned
    on other jobs may correct what workers cost each other. What the law misses of the probes is
    interpolated by a Gaussian process on the logarithm, so that a prediction at a probed placement
    leans towards its probes and a distant one falls back to the law.

    Args:
        members: Size of the ensemble.
        misfit_sigma: Prior standard deviation of log(true / law); updated by the residuals.
        trial_sigma: Standard deviation of the logarithm between two trials of one configuration.
        curve_sigma: Additional standard deviation an octave or more from every probed micro-batch,
            as a pass is not quite linear in it.
        octave_sigma: Additional standard deviation per doubling beyond the probed range.
        prior: Of the log-parameters; None for that of physics.
        residual: Fitted correction from other jobs; None for none.
        random_state: Seed of the ensemble.

    Attributes:
        theta_: Log-parameters, shape (members, parameters); row 0 is the most probable fit.
        scale_: Unit of the parameters.
        misfit_sigma_: Misfit as estimated.
        doubt_: Which rows are not believed, and how wide that makes it.
        n_features_in_: Number of columns.
    """

    def __init__(
        self,
        *,
        members: int = 48,
        misfit_sigma: float = 0.05,
        trial_sigma: float = 0.05,
        octave_sigma: float = 0.06,
        curve_sigma: float = 0.07,
        prior: StepPrior | None = None,
        residual: ResidualModel | None = None,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.misfit_sigma = misfit_sigma
        self.trial_sigma = trial_sigma
        self.octave_sigma = octave_sigma
        self.curve_sigma = curve_sigma
        self.prior = prior
        self.residual = residual
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from measured steps.

        Args:
            X: Configurations, `features.COLUMNS`; `loader_wait_s` (s per step) is used when there.
            y: Step times, s.
            sample_weight: In (0, 1]: the share of a row's variance that is not sampling error.

        Raises:
            ValueError: Columns or values are wrong.
        """
        columns = table(X, optional=("loader_wait_s",))
        y = targets(y, len(columns["workers"]), unit="s")
        weight = weights(sample_weight, len(y))
        self.prior_: StepPrior = self._prior(columns)
        self.misfit_sigma_ = float(self.misfit_sigma)
        self.doubt_ = self._doubt(columns, y, weight)
        believed = np.flatnonzero(~self.doubt_.wild)
        columns, y, weight = take(columns, believed), y[believed], weight[believed]
        self.prior_ = self._prior(columns)
        self.scale_: Scale = step_law.scale_of(columns, y)
        for _ in range(_UPDATES):
            theta, first = self._optimise(columns, y, weight, members=1)
            before = self.misfit_sigma_
            self.misfit_sigma_ = self._misfit(theta, first, columns, y, weight)
            if abs(self.misfit_sigma_ / before - 1) < _SETTLED:
                break
        self.theta_: Array = self._optimise(columns, y, weight, members=self.members)[0]
        self.columns_: dict[str, Array] = columns
        self.weight_: Array = weight
        self.n_features_in_ = len(COLUMNS)
        self.misses_: Array = np.log(y) - self._log_law(columns)
        return self

    def predict(self, X: Any) -> Array:
        """Median step times, s, shape (n,)."""
        self._check_fitted()
        columns = table(X)
        log_step = [np.median(self._log_steps(part)[0], axis=0) for part in pieces(columns)]
        result: Array = np.exp(np.concatenate(log_step))
        return result

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of a step measured in a new trial, s, shape (n, len(LEVELS))."""
        centre, low, high = self.log_moments(X)
        trial = self.trial_sigma
        z = np.asarray(Z)
        sigma = np.where(z < 0, np.hypot(low, trial)[:, None], np.hypot(high, trial)[:, None])
        result: Array = np.exp(centre[:, None] + sigma * z)
        return result

    def log_moments(self, X: Any) -> tuple[Array, Array, Array]:
        """Centre and spread of the log step time, without the noise of a new trial.

        Returns:
            Median of log(s), standard deviation below it, standard deviation above it; each (n,).
        """
        self._check_fitted()
        parts = [self._moments(part) for part in pieces(table(X))]
        centre, low, high = (np.concatenate(column) for column in zip(*parts, strict=True))
        return centre, low, high

    def log_draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the log step time, without the noise of a new trial; shape (size, n).

        Each row is one member of the ensemble at all configurations, so that errors are shared as
        the members share them, and one draw of what the misfit leaves open.
        """
        self._check_fitted()
        columns = table(X)
        log_step, left = self._log_steps(columns)
        centre = np.median(log_step, axis=0)
        drawn = (log_step[1:] if len(log_step) > 1 else log_step) - centre
        members = np.resize(rng.permutation(len(drawn)), size)
        noise = self._open(columns, left) * alike_noise(columns, rng, size=size)
        result: Array = centre + self._width(columns) * (drawn[members] + noise)
        return result

    def terms(self, X: Any) -> step_law.Terms:
        """Parts of a step under the most probable fit, arrays of shape (n,)."""
        self._check_fitted()
        columns = table(X)
        found = step_law.terms(self.theta_[:1], columns, self.scale_, self._correction(columns))
        return step_law.Terms(
            **{name: getattr(found, name)[0] for name in step_law.Terms.__slots__}
        )

    def leave_one_out(self, X: Any, y: Any, sample_weight: Any = None) -> Array:
        """Median prediction for every row from the other rows, s; all rows in one batch.

        Raises:
            ValueError: Fewer than two rows.
        """
        columns = table(X, optional=("loader_wait_s",))
        y = targets(y, len(columns["workers"]), unit="s")
        fresh, theta = self._without_each(columns, y, sample_weight)
        found = residual.features(theta, columns, fresh.scale_)
        learned = 0.0 if self.residual is None else self.residual.predict(found)
        log_law = np.log(step_law.step(theta, columns, fresh.scale_, learned))
        noise = fresh._noise(weights(sample_weight, len(y)))
        local = interpolate_each(
            columns, np.log(y) - log_law, sigma=fresh.misfit_sigma_, noise=noise
        )
        result: Array = np.exp(np.diag(log_law) + local)
        return result

    def lessons(self, X: Any, y: Any) -> tuple[Array, Array, Array]:
        """What a residual model learns from these rows, of laws that had not seen each of them.

        Returns:
            Features of the residual model, shape (n, len(residual.FEATURES)); log(y / law); and
            how much the step follows a correction, each (n,).

        Raises:
            ValueError: Fewer than two rows.
        """
        columns = table(X, optional=("loader_wait_s",))
        y = targets(y, len(columns["workers"]), unit="s")
        fresh, theta = self._without_each(columns, y, None)
        law = np.diag(step_law.step(theta, columns, fresh.scale_))
        follows = np.diag(residual.sensitivity(theta, columns, fresh.scale_))
        return residual.features(theta, columns, fresh.scale_), np.log(y / law), follows

    def _without_each(self, columns: Table, y: Array, sample_weight: Any) -> tuple[Self, Array]:
        """The most probable fit without each row, (n, parameters), and the model it belongs to."""
        if len(y) < 2:
            raise ValueError("leaving one out needs at least two rows")
        fresh = type(self)(**self.get_params())
        fresh.scale_ = step_law.scale_of(columns, y)
        fresh.prior_ = fresh._prior(columns)
        fresh.misfit_sigma_ = float(self.misfit_sigma)
        weight, keep = weights(sample_weight, len(y)), 1.0 - np.eye(len(y))
        return fresh, fresh._optimise(columns, y, weight, members=len(y), keep=keep)[0]

    # ---- fitting

    def _prior(self, columns: Table) -> StepPrior:
        known = self.prior or physics(on_cpu=bool(np.mean(columns["on_cpu"]) > 0.5))
        return opened(known, columns)

    def _doubt(self, columns: Table, y: Array, weight: Array) -> Doubt:
        """Which rows not to believe, as fits to the others have it."""
        factor = np.linalg.cholesky(self.prior_.covariance)
        sigma = self._row_sigma(weight)

        def refit(scale: Scale, keep: Array) -> Fit:
            self.scale_ = scale
            return self._optimise(columns, y, weight, members=len(keep), keep=keep)[1]

        def foresee(scale: Scale, z: Array, row: int, others: Index) -> tuple[Array, float]:
            here, there = take(columns, [row]), take(columns, others)
            step = step_law.step(self.prior_.mean + z @ factor.T, here, scale)[:, 0]
            away = away_sigma(here, there, curve=self.curve_sigma, octave=self.octave_sigma)
            return np.log(step), float(np.hypot(sigma[row], away[0]))

        return wild.doubt(columns, y, outrun(columns, y), refit, foresee)

    def _optimise(
        self,
        columns: Table,
        y: Array,
        weight: Array,
        *,
        members: int,
        keep: Array | None = None,
    ) -> tuple[Array, Fit]:
        """Fit members; `keep` (members, rows) of 0 and 1 leaves rows out and adds no noise.

        Returns:
            Log-parameters, shape (members, parameters), and the fit in units of the prior.
        """
        mean, factor = self.prior_.mean, np.linalg.cholesky(self.prior_.covariance)
        size = 1 if keep is not None else members
        # Leaving out is not drawing: those members are all the most probable fit of their rows.
        row_noise, prior_noise = perturbations(size, 2 * len(y), len(mean), self.random_state)
        mask = np.ones((members, len(y))) if keep is None else keep
        noise = np.broadcast_to(row_noise, (members, 2 * len(y)))
        sigma = self._row_sigma(weight)
        seen = np.asarray(columns.get("loader_wait_s", np.full(len(y), np.nan)))
        waited = np.isfinite(seen)
        wait = np.where(waited, seen, 0.0) / y
        log_y = np.log(y)

        def residuals(z: Array, member: Index) -> Array:
            law = mean + z @ factor.T
            if not np.any(waited):
                time = step_law.step(law, columns, self.scale_)
                miss = (np.log(time) - log_y) / sigma + noise[member, : len(y)]
                return robust(miss * mask[member], _STUDENT)
            found = step_law.terms(law, columns, self.scale_)
            miss = (np.log(found.step) - log_y) / sigma + noise[member, : len(y)]
            hidden = (found.exposed_load / found.step - wait) / _WAIT_SIGMA
            hidden = np.where(waited, hidden + noise[member, len(y) :], 0.0)
            both = np.concatenate([miss * mask[member], hidden * mask[member]], axis=1)
            return robust(both, _STUDENT)

        start = np.broadcast_to(prior_noise, (members, len(mean)))
        fit = optimise(residuals, start, np.ones(len(mean)), iterations=_ITERATIONS)
        theta: Array = mean + fit.theta @ factor.T
        return theta, fit

    def _row_sigma(self, weight: Array) -> Array:
        sigma: Array = np.sqrt(self.misfit_sigma_**2 + self._noise(weight))
        return sigma

    def _noise(self, weight: Array) -> Array:
        """Variance of each row's measurement; larger by as much as the misfit turned out to be."""
        return (self.trial_sigma * self.misfit_sigma_ / self.misfit_sigma) ** 2 / weight

    def _misfit(self, theta: Array, fit: Fit, columns: Table, y: Array, weight: Array) -> float:
        law = np.log(step_law.step(theta, columns, self.scale_)[0])
        miss = (law - np.log(y)) / self._row_sigma(weight)
        ratio = misfit_ratio(
            fit.jacobian[0], miss, self.misfit_sigma_ / self.misfit_sigma, _STUDENT
        )
        return self.misfit_sigma_ * float(np.sqrt(ratio))

    # ---- predicting

    def _correction(self, columns: Table) -> Array:
        """Log correction by the residual model, shape (n,); zero without one."""
        if self.residual is None:
            return np.zeros(len(columns["workers"]))
        features = residual.features(self.theta_[:1], columns, self.scale_)
        correction: Array = self.residual.predict(features)
        return correction

    def _log_law(self, columns: Table) -> Array:
        """Log steps of the members' laws, corrected; shape (members, n)."""
        law = step_law.step(self.theta_, columns, self.scale_, self._correction(columns))
        return np.log(law)

    def _log_steps(self, columns: Table) -> tuple[Array, Array]:
        """Log steps of the members, (members, n), and the standard deviation of the misfit."""
        weights, left = interpolate(
            columns,
            self.columns_,
            sigma=self.misfit_sigma_,
            noise=self._noise(self.weight_),
        )
        return self._log_law(columns) + self.misses_ @ weights.T, left

    def _moments(self, columns: Table) -> tuple[Array, Array, Array]:
        """The ensemble's median, and its 5 % and 95 % quantiles as standard deviations."""
        log_step, left = self._log_steps(columns)
        low, centre, high = np.quantile(log_step, (0.05, 0.5, 0.95), axis=0)
        extra, width = self._open(columns, left), self._width(columns)
        return (
            centre,
            np.hypot(width * np.hypot((centre - low) / _Z95, extra), self.doubt_.below(columns)),
            width * np.hypot((high - centre) / _Z95, extra),
        )

    def _width(self, columns: Table) -> Array:
        """Factor on what is uncertain, from whole jobs that were held out; shape (n,)."""
        return np.where(columns["nodes"] > 1, self.prior_.width_across, self.prior_.width)

    def _open(self, columns: Table, left: Array) -> Array:
        """Standard deviation of what neither law nor interpolated misfit knows, shape (n,)."""
        away = away_sigma(columns, self.columns_, curve=self.curve_sigma, octave=self.octave_sigma)
        torn = max((self.misfit_sigma_ / self.misfit_sigma) ** 2 - 1, 0.0) * self.trial_sigma**2
        result: Array = np.sqrt(left**2 + away**2 + torn + self.doubt_.sigma**2)
        return result

    # ---- keeping

    def to_json(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        self._check_fitted()
        params = {k: v for k, v in self.get_params().items() if k not in ("prior", "residual")}
        return {
            "kind": "step_time/3",
            "params": params,
            "prior": self.prior.to_json() if self.prior else None,
            "residual": self.residual.to_json() if self.residual else None,
            "scale": [self.scale_.step_s, self.scale_.micro_batch],
            "misfit_sigma": self.misfit_sigma_,
            "theta": self.theta_.tolist(),
            "misses": self.misses_.tolist(),
            "weight": self.weight_.tolist(),
            "doubt": self.doubt_.to_json(),
            "columns": {
                name: [None if np.isnan(v) else float(v) for v in column]
                for name, column in self.columns_.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document.
        """
        if data.get("kind") != "step_time/3":
            raise ValueError(f"not a step-time model: kind is {data.get('kind')!r}")
        prior, learned = data["prior"], data["residual"]
        model = cls(
            **data["params"],
            prior=prior and StepPrior.from_json(prior),
            residual=learned and ResidualModel.from_json(learned),
        )
        model.scale_ = Scale(step_s=data["scale"][0], micro_batch=data["scale"][1])
        model.misfit_sigma_ = float(data["misfit_sigma"])
        model.theta_ = np.asarray(data["theta"], dtype=float)
        model.misses_ = np.asarray(data["misses"], dtype=float)
        model.weight_ = np.asarray(data["weight"], dtype=float)
        model.doubt_ = Doubt.from_json(data["doubt"])
        model.columns_ = {k: np.asarray(v, dtype=float) for k, v in data["columns"].items()}
        model.prior_ = model._prior(model.columns_)
        model.n_features_in_ = len(COLUMNS)
        return model
