"""`StepTimeRegressor`: how long one optimiser step takes, as a distribution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Z
from predictors import residual, step_law
from predictors.estimator import Estimator
from predictors.features import COLUMNS, Table, table, take, targets
from predictors.misfit import alike_noise, half_spread, interpolate, octaves_outside
from predictors.posterior import Fit, optimise, perturbations
from predictors.residual import ResidualModel
from predictors.step_law import Scale

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

_FREEDOM = 4.0
"""Weight of the prior misfit against the residuals, in rows."""
_WAIT_SIGMA = 0.03
"""Error of a measured loading wait, as a fraction of the step."""
_CHUNK = 4096


class StepTimeRegressor(Estimator):
    """Time of one optimiser step, s, from a physical law fitted to this job's probes.

    The law is `predictors.step_law`. Its parameters get wide priors and are fitted as an ensemble
    (`predictors.posterior`). What the law misses of the probes is interpolated by a Gaussian
    process on the logarithm, so that a prediction at a probed configuration agrees with its probe
    and a distant one falls back to the law. A residual model learned on other jobs may correct the
    law before that.

    Args:
        members: Size of the ensemble.
        misfit_sigma: Prior standard deviation of log(true / law); updated by the residuals.
        trial_sigma: Standard deviation of the logarithm between two trials of one configuration.
        octave_sigma: Additional standard deviation per doubling beyond the probed range.
        residual: Fitted correction from other jobs; None for none.
        random_state: Seed of the ensemble.

    Attributes:
        theta_: Log-parameters, shape (members, parameters); row 0 is the most probable fit.
        scale_: Unit of the parameters.
        misfit_sigma_: Misfit as estimated.
        n_features_in_: Number of columns.
    """

    def __init__(
        self,
        *,
        members: int = 48,
        misfit_sigma: float = 0.07,
        trial_sigma: float = 0.05,
        octave_sigma: float = 0.05,
        residual: ResidualModel | None = None,
        random_state: int = 0,
    ) -> None:
        self.members = members
        self.misfit_sigma = misfit_sigma
        self.trial_sigma = trial_sigma
        self.octave_sigma = octave_sigma
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
        weight = _weights(sample_weight, len(y))
        self.scale_: Scale = step_law.scale_of(columns, y)
        self.misfit_sigma_ = float(self.misfit_sigma)
        first = self._optimise(columns, y, weight, members=1)
        self.misfit_sigma_ = self._estimate_misfit(first, columns, y, weight)
        self.theta_: Array = self._optimise(columns, y, weight, members=self.members).theta
        self.columns_: dict[str, Array] = take(columns, np.arange(len(y)))
        self.weight_: Array = weight
        self.n_features_in_ = len(COLUMNS)
        law = step_law.terms(self.theta_, columns, self.scale_).step
        self.misses_: Array = np.log(y) - np.log(law) - self._correction(columns)
        return self

    def predict(self, X: Any) -> Array:
        """Median step times, s, shape (n,)."""
        self._check_fitted()
        columns = table(X)
        return np.concatenate([np.exp(self._centre(part)) for part in _parts(columns)])

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
        parts = [self._moments(part) for part in _parts(table(X))]
        centre, low, high = (np.concatenate(column) for column in zip(*parts, strict=True))
        return centre, low, high

    def log_draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the log step time, without the noise of a new trial; shape (size, n).

        Each row is one member of the ensemble at all configurations, so that errors are shared as
        the members share them, and one draw of what the misfit leaves open.
        """
        self._check_fitted()
        columns = table(X)
        log_step, left = self._log_law(columns, slice(None))
        spread = np.hypot(left, self.octave_sigma * octaves_outside(columns, self.columns_))
        drawn = log_step[1:] if len(log_step) > 1 else log_step
        members = np.resize(rng.permutation(len(drawn)), size)
        result: Array = drawn[members] + spread * alike_noise(columns, rng, size=size)
        return result

    def terms(self, X: Any) -> step_law.Terms:
        """Parts of a step under the most probable fit, arrays of shape (n,)."""
        self._check_fitted()
        found = step_law.terms(self.theta_[:1], table(X), self.scale_)
        return step_law.Terms(
            **{name: getattr(found, name)[0] for name in step_law.Terms.__slots__}
        )

    def leave_one_out(self, X: Any, y: Any, sample_weight: Any = None) -> Array:
        """Median prediction for every row from the other rows, s; all rows in one batch.

        Raises:
            ValueError: Fewer than two rows.
        """
        return self.leave_one_out_rows(X, y, sample_weight)[0]

    def leave_one_out_rows(
        self, X: Any, y: Any, sample_weight: Any = None
    ) -> tuple[Array, Array, Array]:
        """What a law that had not seen a row says of it: what a residual model is trained on.

        Returns:
            Median predictions (s), those of the law alone (s), and features of the residual
            model, shape (n, len(residual.FEATURES)).

        Raises:
            ValueError: Fewer than two rows.
        """
        columns = table(X, optional=("loader_wait_s",))
        y = targets(y, len(columns["workers"]), unit="s")
        if len(y) < 2:
            raise ValueError("leaving one out needs at least two rows")
        fresh = type(self)(**self.get_params())
        fresh.scale_ = step_law.scale_of(columns, y)
        fresh.misfit_sigma_ = float(self.misfit_sigma)
        weight = _weights(sample_weight, len(y))
        keep = 1.0 - np.eye(len(y))
        theta = fresh._optimise(columns, y, weight, members=len(y), keep=keep).theta
        log_law = np.log(step_law.terms(theta, columns, fresh.scale_).step)
        features = residual.features(theta, columns, fresh.scale_)
        learned = np.zeros(len(y)) if self.residual is None else self.residual.predict(features)
        misses = np.log(y) - log_law - learned
        noise = self.trial_sigma**2 / weight
        local = np.zeros(len(y))
        for i in range(len(y)):
            others = np.flatnonzero(keep[i])
            weights, _ = interpolate(
                take(columns, [i]),
                take(columns, others),
                sigma=fresh.misfit_sigma_,
                noise=noise[others],
            )
            local[i] = weights[0] @ misses[i, others]
        law = np.exp(np.diag(log_law))
        return law * np.exp(learned + local), law, features

    # ---- fitting

    def _optimise(
        self,
        columns: Table,
        y: Array,
        weight: Array,
        *,
        members: int,
        keep: Array | None = None,
    ) -> Fit:
        """Fit members; `keep` (members, rows) of 0 and 1 leaves rows out and adds no noise."""
        mean, sd = step_law.prior(bool(np.mean(columns["on_cpu"]) > 0.5))
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

        def residuals(theta: Array, member: Index) -> Array:
            found = step_law.terms(theta, columns, self.scale_)
            step = (np.log(found.step) - log_y) / sigma + noise[member, : len(y)]
            hidden = (found.exposed_load / found.step - wait) / _WAIT_SIGMA
            hidden = np.where(waited, hidden + noise[member, len(y) :], 0.0)
            return np.concatenate([step * mask[member], hidden * mask[member]], axis=1)

        start = np.broadcast_to(mean + sd * prior_noise, (members, len(mean)))
        return optimise(residuals, start, sd)

    def _row_sigma(self, weight: Array) -> Array:
        sigma: Array = np.sqrt(self.misfit_sigma_**2 + self.trial_sigma**2 / weight)
        return sigma

    def _estimate_misfit(self, fit: Fit, columns: Table, y: Array, weight: Array) -> float:
        """Misfit from the residuals, shrunk towards its prior by `_FREEDOM` rows of it.

        The residuals carry n minus the effective number of parameters degrees of freedom.
        """
        _, sd = step_law.prior(bool(np.mean(columns["on_cpu"]) > 0.5))
        jacobian = fit.jacobian[0]
        normal = jacobian.T @ jacobian
        used = float(np.trace(np.linalg.solve(normal + np.diag(sd**-2.0), normal)))
        law = step_law.terms(fit.theta, columns, self.scale_).step[0]
        excess = (np.log(law) - np.log(y)) ** 2 / (1 + self._trial_share(weight))
        freedom = max(len(y) - used, 0.0)
        variance = (_FREEDOM * self.misfit_sigma**2 + excess.sum()) / (_FREEDOM + freedom)
        return float(np.sqrt(variance))

    def _trial_share(self, weight: Array) -> Array:
        share: Array = self.trial_sigma**2 / weight / self.misfit_sigma**2
        return share

    # ---- predicting

    def _correction(self, columns: Table) -> Array:
        """Log correction by the residual model, shape (n,); zero without one."""
        if self.residual is None:
            return np.zeros(len(columns["workers"]))
        features = residual.features(self.theta_[:1], columns, self.scale_)
        correction: Array = self.residual.predict(features)
        return correction

    def _log_law(self, columns: Table, members: slice) -> tuple[Array, Array]:
        """Log steps of some members, (members, n), and the standard deviation of the misfit."""
        weights, left = interpolate(
            columns,
            self.columns_,
            sigma=self.misfit_sigma_,
            noise=self.trial_sigma**2 / self.weight_,
        )
        law = np.log(step_law.terms(self.theta_[members], columns, self.scale_).step)
        log_step: Array = law + self._correction(columns) + self.misses_[members] @ weights.T
        return log_step, left

    def _centre(self, columns: Table) -> Array:
        centre: Array = self._log_law(columns, slice(0, 1))[0][0]
        return centre

    def _moments(self, columns: Table) -> tuple[Array, Array, Array]:
        log_step, left = self._log_law(columns, slice(None))
        centre, deviations = log_step[0], log_step[1:] - log_step[0]
        extra = np.hypot(left, self.octave_sigma * octaves_outside(columns, self.columns_))
        low, high = half_spread(deviations, below=True), half_spread(deviations, below=False)
        return centre, np.hypot(low, extra), np.hypot(high, extra)

    # ---- keeping

    def to_json(self) -> dict[str, Any]:
        """The fitted regressor as plain JSON values."""
        self._check_fitted()
        params = {k: v for k, v in self.get_params().items() if k != "residual"}
        return {
            "kind": "step_time/1",
            "params": params,
            "residual": self.residual.to_json() if self.residual else None,
            "scale": [self.scale_.step_s, self.scale_.micro_batch],
            "misfit_sigma": self.misfit_sigma_,
            "theta": self.theta_.tolist(),
            "misses": self.misses_.tolist(),
            "weight": self.weight_.tolist(),
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
        if data.get("kind") != "step_time/1":
            raise ValueError(f"not a step-time model: kind is {data.get('kind')!r}")
        learned = None
        if data["residual"] is not None:
            learned = ResidualModel.from_json(data["residual"])
        model = cls(**data["params"], residual=learned)
        model.scale_ = Scale(step_s=data["scale"][0], micro_batch=data["scale"][1])
        model.misfit_sigma_ = float(data["misfit_sigma"])
        model.theta_ = np.asarray(data["theta"], dtype=float)
        model.misses_ = np.asarray(data["misses"], dtype=float)
        model.weight_ = np.asarray(data["weight"], dtype=float)
        model.columns_ = {k: np.asarray(v, dtype=float) for k, v in data["columns"].items()}
        model.n_features_in_ = len(COLUMNS)
        return model


def _parts(columns: Table) -> list[dict[str, Array]]:
    """The table in pieces, so that members times rows stay small."""
    n = len(columns["workers"])
    return [take(columns, np.arange(i, min(i + _CHUNK, n))) for i in range(0, max(n, 1), _CHUNK)]


def _weights(sample_weight: Any, n: int) -> Array:
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=float)
    if weight.shape != (n,) or not np.all((weight > 0) & (weight <= 1)):
        raise ValueError(f"sample_weight needs shape ({n},) and values in (0, 1]")
    return weight
