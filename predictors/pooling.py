"""Learn the priors of the step law from many measured jobs: empirical Bayes in three levels.

Every job's rows are summarised once, as a normal likelihood of the log-parameters at their most
probable value under wide priors (Laplace's approximation). With those, the model

    job j on cluster c   theta_j ~ N(mu_c, T),   cluster   mu_c ~ N(mu, C),   all   mu ~ N(guess, S)

is linear and normal (Gelman et al., Bayesian Data Analysis, chapter 5): the means follow from one
linear system, and the covariance T between jobs by expectation-maximisation, held by a prior of a
job or two (`prior.GUESSES`), so that parameters which go together in jobs tell of each other. A
cluster is a GPU type. C stays as guessed: too few clusters are known to learn it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from predictors import residual, step_law
from predictors.conformal import width_factor
from predictors.features import Table, table, take
from predictors.gpus import type_of
from predictors.posterior import optimise, robust
from predictors.prior import GUESSES, PriorSet, StepPrior, physics
from predictors.residual import ResidualModel, fit_residual
from predictors.step_law import PARAMETERS
from predictors.step_time import StepTimeRegressor

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Index

_GUESS_JOBS = 1.5
"""Jobs' worth of the guessed spread between jobs."""
_GUESS_SHARE = 0.7
"""Standard deviation of the mean over all clusters around its guess, in those between clusters: the
guess is worth two clusters."""
_WIDE = 1.5
"""Factor on the guessed spread under which a job is summarised."""
_MOST_ROWS = 160
_ROWS_WORTH = 40.0
"""A job's rows miss the law in like ways; together they count as so many independent ones."""
_STUDENT = 6.0
_ROUNDS = 12
HoldOut = Literal["model", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredJob:
    """One job on one GPU type, measured at several placements.

    Attributes:
        model: What is trained; jobs of one model are held out together.
        gpu: GPU type.
        columns: Configurations, `features.COLUMNS`.
        step_s: Step times, s.
    """

    model: str
    gpu: str
    columns: Table
    step_s: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summary:
    """What one job's rows say of the log-parameters: exp(-theta' I theta / 2 + v' theta).

    Attributes:
        job: The job.
        information: I, shape (parameters, parameters).
        vector: v, shape (parameters,).
    """

    job: MeasuredJob
    information: Array
    vector: Array


def learn(jobs: Sequence[MeasuredJob], *, seed: int = 0) -> PriorSet:
    """Priors, residual and widths from measured jobs; those of one worker only teach nothing.

    The residual and the widths come from jobs predicted by priors that had not seen their model.
    """
    summaries = [summarise(job) for job in jobs if job.columns["workers"].max() > 1]
    return learn_from(summaries, seed=seed)


def learn_from(summaries: Sequence[Summary], *, seed: int = 0) -> PriorSet:
    """The same from summaries, which do not depend on each other and so may be kept."""
    priors = pool(summaries)
    if not summaries:
        return priors
    known = [trial for s in summaries for trial in _trials(s, summaries, "model", seed)]
    learned = _residual(known, seed)
    strange = [trial for s in summaries for trial in _trials(s, summaries, "gpu", seed)]
    return PriorSet(
        unseen=_widened(priors.unseen, strange, learned, "gpu"),
        seen={gpu: _widened(p, known, learned, "model") for gpu, p in priors.seen.items()},
        residual=learned,
    )


def _widened(
    prior: StepPrior, trials: Sequence[_Trial], learned: ResidualModel | None, held_out: HoldOut
) -> StepPrior:
    """The prior with the widths that trials under such priors needed."""

    def needed(*, across: bool) -> float:
        some = [trial for trial in trials if trial.across == across]
        units = {getattr(trial.job, held_out) for trial in some}
        return width_factor([trial.scores(learned) for trial in some], len(units))

    return replace(prior, width=needed(across=False), width_across=needed(across=True))


# ---- one job -------------------------------------------------------------------------------


def summarise(job: MeasuredJob) -> Summary:
    """A job's likelihood as a normal one."""
    columns, y = _thinned(job)
    scale = step_law.scale_of(columns, y)
    wide = physics()
    mean, sd = wide.mean, _WIDE * np.sqrt(np.diag(wide.covariance))
    log_y, miss = np.log(y), 0.07
    for _ in range(2):
        sigma = max(miss, 0.03) * np.sqrt(max(len(y) / _ROWS_WORTH, 1.0))

        def residuals(z: Array, _: Index, sigma: float = sigma) -> Array:
            law = step_law.step(mean + sd * z, columns, scale)
            return robust((np.log(law) - log_y) / sigma, _STUDENT)

        fit = optimise(residuals, np.zeros((1, len(mean))), np.ones(len(mean)))
        law = step_law.step(mean + sd * fit.theta, columns, scale)[0]
        miss = 1.5 * float(np.median(np.abs(np.log(law) - log_y)))
    jacobian, z = fit.jacobian[0], fit.theta[0]
    information = jacobian.T @ jacobian
    # At the optimum the likelihood's gradient is z; a normal one with it peaks at I^-1 (I z + z).
    vector = information @ z + z
    return Summary(
        job=job,
        information=information / np.outer(sd, sd),
        vector=vector / sd + information / np.outer(sd, sd) @ mean,
    )


def _thinned(job: MeasuredJob) -> tuple[dict[str, Array], Array]:
    """Geometric means of repeated configurations; of many, every so many-th."""
    columns = table(job.columns)
    names = ("workers", "nodes", "workers_per_node", "micro_batch")
    keys = np.stack([columns[name] for name in names], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    mean = np.bincount(inverse, weights=np.log(job.step_s)) / np.bincount(inverse)
    chosen = np.arange(len(first))
    if len(first) > _MOST_ROWS:
        ends = np.flatnonzero(columns["workers"][first] <= 2)
        spread = np.random.default_rng(0).permutation(len(first))[:_MOST_ROWS]
        chosen = np.unique(np.concatenate([ends, spread]))
    return take(columns, first[chosen]), np.exp(mean[chosen])


# ---- all jobs ------------------------------------------------------------------------------


def pool(summaries: Sequence[Summary]) -> PriorSet:
    """Priors from summaries, without residual or widths."""
    guesses = [GUESSES[name] for name in PARAMETERS]
    guess = np.log(np.asarray([g.gpu for g in guesses]))
    within = np.diag([g.job**2 for g in guesses])
    between = np.asarray([g.cluster**2 for g in guesses])
    clusters = sorted({type_of(s.job.gpu) for s in summaries})
    spread = within
    for _ in range(_ROUNDS):
        mean, covariance = _means(summaries, clusters, guess, spread, between)
        moments = _GUESS_JOBS * within
        for s in summaries:
            centre = mean[1 + clusters.index(type_of(s.job.gpu))]
            sure = np.linalg.inv(spread)
            left = np.linalg.inv(s.information + sure)
            off = np.clip(left @ (s.vector + sure @ centre) - centre, -3.0, 3.0)
            moments = moments + left + np.outer(off, off)
        spread = moments / (_GUESS_JOBS + len(summaries))
    return PriorSet(
        unseen=StepPrior(mean=mean[0], covariance=covariance[0] + spread + np.diag(between)),
        seen={
            gpu: StepPrior(mean=mean[i], covariance=covariance[i] + spread)
            for i, gpu in enumerate(clusters, start=1)
        },
    )


def _means(
    summaries: Sequence[Summary],
    clusters: Sequence[str],
    guess: Array,
    spread: Array,
    between: Array,
) -> tuple[Array, Array]:
    """Posterior of the mean over all clusters (row 0) and of each cluster, given the spreads.

    Returns:
        Means, shape (1 + clusters, parameters), and their covariances.
    """
    count = len(guess)
    sure, tie = np.linalg.inv(spread), np.diag(1 / between)
    precision = np.zeros((1 + len(clusters), count, 1 + len(clusters), count))
    vector = np.zeros((1 + len(clusters), count))
    precision[0, :, 0, :] = np.diag(1 / (_GUESS_SHARE**2 * between))
    vector[0] = guess / (_GUESS_SHARE**2 * between)
    for i in range(1, 1 + len(clusters)):
        for a, b, sign in ((0, 0, 1), (i, i, 1), (0, i, -1), (i, 0, -1)):
            precision[a, :, b, :] += sign * tie
    for s in summaries:
        i = 1 + clusters.index(type_of(s.job.gpu))
        left = np.linalg.inv(s.information + sure)
        precision[i, :, i, :] += sure - sure @ left @ sure
        vector[i] += sure @ left @ s.vector
    size = vector.size
    covariance = np.linalg.inv(precision.reshape(size, size))
    mean = (covariance @ vector.reshape(size)).reshape(vector.shape)
    blocks = covariance.reshape(precision.shape)
    return mean, np.stack([blocks[i, :, i, :] for i in range(1 + len(clusters))])


# ---- held out ------------------------------------------------------------------------------

Wanted = tuple[int, int, int]
_PROBES: tuple[tuple[Wanted, ...], ...] = (
    ((1, 1, 0), (1, 1, -1), (2, 1, 0)),
    ((1, 1, 0), (1, 1, -1), (2, 1, 0), (2, 2, 0), (2, 2, -1), (4, 1, 0)),
)
"""What users are likely to try: (workers, nodes, lowest or highest batch)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trial:
    """A job predicted from a few of its rows, by priors that its model had no part in."""

    job: MeasuredJob
    model: StepTimeRegressor
    asked: Table
    true_s: Array
    across: bool

    def scores(self, learned: ResidualModel | None) -> Array:
        """|log(measured / median)| of the asked rows in standard deviations."""
        fresh = StepTimeRegressor(**{**self.model.get_params(), "residual": learned})
        vars(fresh).update({k: v for k, v in vars(self.model).items() if k.endswith("_")})
        centre, low, high = fresh.log_moments(self.asked)
        off = np.log(self.true_s) - centre
        noise = fresh.trial_sigma
        score: Array = np.abs(off) / np.hypot(np.where(off < 0, low, high), noise)
        return score


def _trials(
    held: Summary, summaries: Sequence[Summary], held_out: HoldOut, seed: int
) -> list[_Trial]:
    kept = [
        s
        for s in summaries
        if s.job.model != held.job.model and (held_out == "model" or s.job.gpu != held.job.gpu)
    ]
    prior = pool(kept).of(held.job.gpu)
    columns, y = table(held.job.columns), held.job.step_s
    found = []
    for wanted in _PROBES:
        probes = _rows(columns, wanted)
        if probes is None:
            continue
        across = wanted is not _PROBES[0]
        asked = (columns["nodes"] > 1) == across
        asked[probes] = False
        rows = np.flatnonzero(asked)
        if len(rows):
            model = StepTimeRegressor(prior=prior, random_state=seed)
            model.fit(take(columns, probes), y[probes])
            found.append(
                _Trial(
                    job=held.job,
                    model=model,
                    asked=take(columns, rows),
                    true_s=y[rows],
                    across=across,
                )
            )
    return found


def _rows(columns: Table, wanted: Sequence[Wanted]) -> list[int] | None:
    """Rows of the wanted configurations; None where one was not measured."""
    rows: list[int] = []
    for workers, nodes, which in wanted:
        here = np.flatnonzero((columns["workers"] == workers) & (columns["nodes"] == nodes))
        if not len(here):
            return None
        order = here[np.argsort(columns["micro_batch"][here], kind="stable")]
        rows.append(int(order[which]))
    return rows


def _residual(trials: Sequence[_Trial], seed: int) -> ResidualModel | None:
    X, miss, follows, jobs = [], [], [], []
    for trial in trials:
        theta, scale = trial.model.theta_[:1], trial.model.scale_
        law = step_law.step(theta, trial.asked, scale)[0]
        X.append(residual.features(theta, trial.asked, scale))
        miss.append(np.log(trial.true_s / law))
        follows.append(residual.sensitivity(theta, trial.asked, scale)[0])
        jobs += [trial.job.model] * len(law)
    if not jobs:
        return None
    return fit_residual(
        np.concatenate(X), np.concatenate(miss), np.concatenate(follows), jobs, seed=seed
    )
