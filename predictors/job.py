"""`ProbedJobPredictor`: everything an estimate needs of one job, fitted on its probes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from planner.core.distribution import I05, I50, I95, Distribution, Evidence, Z
from planner.core.prediction import Bottleneck, Prediction
from planner.core.types import Knobs, ModelCard, ProbeResult, ResourceConfig, WorkLoad
from predictors import features, run_time
from predictors.conformal import Calibration, calibrate
from predictors.evidence import measured, unique
from predictors.job_memory import JobMemory, WorkerMemory, errors_of
from predictors.prior import bundled
from predictors.residual import ResidualModel
from predictors.run_time import RunParts
from predictors.step_law import compute_per_sample_s
from predictors.step_time import StepTimeRegressor
from predictors.transfer import MachineRatio, Ratio, learn_residual, prior_of

if TYPE_CHECKING:
    from planner.core.distribution import Array

Config = tuple[ResourceConfig, Knobs]
DRAWS = 256
"""Joint draws of whole runs: enough for covariances to be good to some 6 %."""
_NEARLY_FULL = 0.9
"""Share of the memory from which a configuration counts as bound by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """Models of one kind of machine."""

    step: StepTimeRegressor
    parts: RunParts
    probed: frozenset[tuple[int, int, int]]
    rows: int
    unsteadiness: float
    crowding: float


@dataclass(frozen=True, slots=True)
class _Runs:
    """Configurations on one kind of machine: steps and whole runs without drift, quantiles, s.

    `per_epoch` is how many full steps an epoch is worth, shape (n,).
    """

    key: str
    machine: _Machine
    ratio: Ratio
    configs: Sequence[Config]
    columns: features.Table
    step: Array
    per_epoch: Array
    run: Array


class ProbedJobPredictor:
    """Predicts whole runs of one job from its probes; see `predictors.base.JobPredictor`.

    Configurations on a kind of machine that this job was probed on use that machine's own law.
    Others are carried over from the machine with most probes, by the ratio that other jobs showed
    (`predictors.transfer`), with an error to match.

    Args:
        history: Kept probes of other jobs.
        finished: Predicted and real whole-run times (s) of finished runs.
        saves: Whether the job may write checkpoints.
        seed: Everything drawn at random follows from it.
    """

    def __init__(
        self,
        *,
        history: Sequence[ProbeResult] = (),
        finished: Sequence[tuple[Distribution, float]] = (),
        saves: bool = True,
        seed: int = 0,
    ) -> None:
        self.history = tuple(history)
        self.finished = tuple(finished)
        self.saves = saves
        self.seed = seed

    # ---- fitting

    def fit(self, probes: Sequence[ProbeResult]) -> Self:
        """Learn from this job's probes.

        Raises:
            EvidenceError: No probe ended well.
        """
        probes = unique(probes)
        good = measured(probes)
        own = {p.fingerprint for p in probes}
        self.others_ = tuple(p for p in self.history if p.fingerprint not in own)
        self.calibration_: Calibration = calibrate(self.finished)
        self.probes_ = probes
        self.residual_ = learn_residual([*self.others_, *probes], seed=self.seed)
        keys = dict.fromkeys(features.machine_key(p.resources) for p in good)
        self.machines_ = {key: self._fit_machine(key, probes) for key in keys}
        self.memory_ = JobMemory(probes, seed=self.seed)
        self.base_ = max(self.machines_, key=lambda key: self.machines_[key].rows)
        self._ratios: dict[str, MachineRatio] = {}
        return self

    def _fit_machine(self, key: str, probes: Sequence[ProbeResult]) -> _Machine:
        here = [p for p in probes if features.machine_key(p.resources) == key]
        good = [p for p in here if features.is_measured(p)]
        step = self._step_model(good[0], self.residual_)
        step.fit(*_step_rows(good, step.trial_sigma))
        return _Machine(
            step=step,
            parts=run_time.parts_of(good, saves=self.saves),
            probed=frozenset(_shape(p.resources, p.knobs) for p in good),
            rows=len(good),
            unsteadiness=float(np.median([features.unsteadiness(p) for p in good])),
            crowding=max(features.crowding(p) for p in good),
        )

    def _step_model(self, probe: ProbeResult, learned: ResidualModel | None) -> StepTimeRegressor:
        """For the machine of a probe: what was learned here goes before what is shipped."""
        shipped = bundled().residual if probe.resources.gpu else None
        return StepTimeRegressor(
            prior=prior_of(probe), residual=learned or shipped, random_state=self.seed
        )

    # ---- predicting

    def predict(self, configs: Sequence[Config], work: WorkLoad) -> list[Prediction]:
        """What each configuration would do with the whole job, in the order given."""
        result: list[Prediction | None] = [None] * len(configs)
        for key, rows in _by_machine(configs).items():
            predicted = self._predict_machine(self._runs(key, [configs[i] for i in rows], work))
            for i, prediction in zip(rows, predicted, strict=True):
                result[i] = prediction
        return [p for p in result if p is not None]

    def draws(self, configs: Sequence[Config], work: WorkLoad) -> Array:
        """Joint draws of whole-run times, s, shape (`DRAWS`, n); see `JobPredictor.draws`.

        Kinds of machines are drawn independently: a probe of one says nothing of another's law.
        """
        result = np.empty((DRAWS, len(configs)))
        for key, rows in _by_machine(configs).items():
            runs = self._runs(key, [configs[i] for i in rows], work)
            rng = np.random.default_rng([self.seed, zlib.crc32(key.encode())])
            log_step = runs.machine.step.log_draws(runs.columns, rng, size=DRAWS)
            log_step += runs.ratio.log_mean + runs.ratio.log_sd * rng.standard_normal((DRAWS, 1))
            training = work.epochs * runs.per_epoch * (np.exp(log_step) - runs.step[:, I50])
            result[:, rows] = runs.run[:, I50] + training
        return result

    def _runs(self, key: str, configs: Sequence[Config], work: WorkLoad) -> _Runs:
        machine = self.machines_.get(key) or self.machines_[self.base_]
        columns = features.config_table(configs)
        ratio = self._ratio(key, columns)
        step = _step_quantiles(machine.step, columns, ratio)
        batches = np.asarray([k.global_batch for _, k in configs], dtype=float)
        plan = run_time.steps_of(columns, batches, work.samples)
        per_epoch = plan.full + plan.has_last * _last_share(machine.step, columns, plan)
        sample_s = float(compute_per_sample_s(machine.step.theta_[:1], machine.step.scale_)[0])
        run = run_time.run_quantiles(
            machine.parts,
            configs,
            columns,
            work,
            epoch_s=step * per_epoch[:, None],
            sample_s=sample_s * np.exp(ratio.log_mean),
        )
        return _Runs(key, machine, ratio, configs, columns, step, per_epoch, run)

    def _predict_machine(self, runs: _Runs) -> list[Prediction]:
        machine, ratio, configs, columns = runs.machine, runs.ratio, runs.configs, runs.columns
        memory = self.memory_.predict(configs, columns)
        calibration, steps, company = self.calibration_, machine.unsteadiness, machine.crowding
        shown = calibration.widen(runs.run, unsteadiness=steps, crowding=company)
        without_runs = Calibration().widen(runs.run, unsteadiness=steps, crowding=company)
        alone = calibration.widen(runs.run, unsteadiness=steps)
        return self._assemble(
            step=calibration.widen(runs.step, unsteadiness=steps, crowding=company),
            run=shown,
            by_runs=_times_as_wide(shown, without_runs),
            by_company=_times_as_wide(shown, alone),
            memory=memory,
            bounds=_bottlenecks(machine.step, columns, configs, memory.quantiles, ratio),
            evidence=[self._evidence(runs.key, machine, ratio, r, k) for r, k in configs],
        )

    def _assemble(
        self,
        *,
        step: Array,
        run: Array,
        by_runs: Array,
        by_company: Array,
        memory: WorkerMemory,
        bounds: Sequence[Bottleneck],
        evidence: Sequence[Evidence],
    ) -> list[Prediction]:
        calibration = self.calibration_
        step_rows, run_rows = step.tolist(), run.tolist()
        return [
            Prediction(
                step_time_s=Distribution(quantiles=tuple(step_rows[i]), evidence=evidence[i]),
                run_s=Distribution(quantiles=tuple(run_rows[i]), evidence=evidence[i]),
                memory_bytes=Distribution(quantiles=tuple(peak), evidence=memory.evidence[i]),
                memory_parts=memory.parts[i],
                p_oom=float(memory.p_oom[i]),
                bottleneck=bounds[i],
                evidence=evidence[i],
                interval_method=calibration.method,
                calibrated=calibration.radius is not None,
                n_calibration=calibration.n,
                widened_by_runs=float(by_runs[i]),
                widened_by_company=float(by_company[i]),
            )
            for i, peak in enumerate(memory.quantiles.tolist())
        ]

    def _ratio(self, key: str, columns: features.Table) -> Ratio:
        if key in self.machines_:
            return Ratio.one(len(columns["workers"]))
        if key not in self._ratios:
            self._ratios[key] = MachineRatio(self.others_, self.base_, key, seed=self.seed)
        return self._ratios[key].at(self.machines_[self.base_].step, columns)

    def _evidence(
        self, key: str, machine: _Machine, ratio: Ratio, resources: ResourceConfig, knobs: Knobs
    ) -> Evidence:
        if key in self.machines_:
            return "probe" if _shape(resources, knobs) in machine.probed else "transfer"
        return "history" if ratio.jobs else "prior"

    # ---- telling

    def card(self) -> ModelCard:
        """What it was fitted on, and its error on probes left out one by one."""
        # Trees that had seen the row which is left out would make the error look small.
        unseen = learn_residual(self.others_, seed=self.seed) if self.residual_ else None
        time_errors: list[float] = []
        memory_errors: list[float] = []
        for key in self.machines_:
            here = [p for p in self.probes_ if features.machine_key(p.resources) == key]
            good = [p for p in here if features.is_measured(p)]
            if len({_shape(p.resources, p.knobs) for p in good}) > 1:
                fresh = self._step_model(good[0], unseen)
                columns, y, weight = _step_rows(good, fresh.trial_sigma)
                guess = fresh.leave_one_out(columns, y, weight)
                time_errors += list(np.abs(guess / y - 1))
            memory_errors += errors_of(here, seed=self.seed)
        calibration = self.calibration_
        return ModelCard(
            id="step-law-2+trees" if self.residual_ else "step-law-2",
            n_train=self.residual_.rows
            if self.residual_
            else sum(m.rows for m in self.machines_.values()),
            coverage=calibration.coverage,
            n_runs=calibration.n,
            time_mape=float(np.mean(time_errors)) if time_errors else None,
            memory_mape=float(np.mean(memory_errors)) if memory_errors else None,
        )


def _by_machine(configs: Sequence[Config]) -> dict[str, list[int]]:
    """Positions of the configurations by kind of machine."""
    groups: dict[str, list[int]] = {}
    for i, (resources, _) in enumerate(configs):
        groups.setdefault(features.machine_key(resources), []).append(i)
    return groups


def _shape(resources: ResourceConfig, knobs: Knobs) -> tuple[int, int, int]:
    return resources.nodes, resources.workers_per_node, knobs.micro_batch


def _step_rows(
    probes: Sequence[ProbeResult], trial_sigma: float
) -> tuple[dict[str, Array], Array, Array]:
    """Table, mean step times (s) and weights of measured probes."""
    y = np.asarray([features.mean_step_s(p) for p in probes])
    weight = np.asarray([features.step_weight(p, trial_sigma) for p in probes])
    return features.probe_table(probes), y, weight


def _step_quantiles(model: StepTimeRegressor, columns: features.Table, ratio: Ratio) -> Array:
    """Quantiles of the step time without drift, s, shape (n, len(LEVELS))."""
    centre, low, high = model.log_moments(columns)
    z = np.asarray(Z)
    sigma = np.where(z < 0, np.hypot(low, ratio.log_sd)[:, None], 0.0)
    sigma = sigma + np.where(z >= 0, np.hypot(high, ratio.log_sd)[:, None], 0.0)
    result: Array = np.exp((centre + ratio.log_mean)[:, None] + sigma * z)
    return result


def _times_as_wide(shown: Array, other: Array) -> Array:
    """Width of 90 % intervals over that of others, as logarithms, of quantiles (n, len(LEVELS))."""
    one, two = (np.maximum(np.log(q[:, I95] / q[:, I05]), 1e-9) for q in (shown, other))
    result: Array = one / two
    return result


def _last_share(model: StepTimeRegressor, columns: features.Table, plan: run_time.Steps) -> Array:
    """Time of an epoch's last, shorter step as a share of a full one."""
    last = dict(columns)
    last["micro_batch"] = plan.last_micro_batch
    last["accumulation"] = plan.last_accumulation
    result: Array = model.terms(last).step / model.terms(columns).step
    return result


def _bottlenecks(
    model: StepTimeRegressor,
    columns: features.Table,
    configs: Sequence[Config],
    memory: Array,
    ratio: Ratio,
) -> list[Bottleneck]:
    """What a step waits for most: data, other workers, or the processor (`gpu`, also on CPUs)."""
    if ratio.carried and ratio.jobs == 0:
        return ["unknown"] * len(configs)
    found = model.terms(columns)
    computing = found.step - found.exposed_load - found.exposed_sync
    largest = np.argmax(np.stack([computing, found.exposed_load, found.exposed_sync]), axis=0)
    names: tuple[Bottleneck, ...] = ("gpu", "loader", "network")
    result = [names[i] for i in largest]
    for i, (resources, _) in enumerate(configs):
        capacity = resources.gpu_memory_bytes
        if capacity and memory[i, I50] > _NEARLY_FULL * capacity:
            result[i] = "memory"
    return result
