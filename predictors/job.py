"""`ProbedJobPredictor`: everything an estimate needs of one job, fitted on its probes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from planner.core.distribution import I50, Distribution, Evidence
from planner.core.job import LanguageModel
from planner.core.prediction import Bottleneck, Prediction
from planner.core.types import Knobs, ModelCard, Offer, ProbeResult, ResourceConfig, WorkLoad
from predictors import features
from predictors.base import Bill
from predictors.conformal import Calibration, calibrate
from predictors.cost import CostRegressor
from predictors.doubts import Doubts, Fitted, doubts_of, suspicious
from predictors.evidence import measured, unique
from predictors.job_memory import JobMemory, WorkerMemory, errors_of
from predictors.language_memory import LanguageMemory, by_spread
from predictors.language_steps import LanguageSteps
from predictors.prior import bundled
from predictors.residual import ResidualModel
from predictors.run_time import Runs, RunTimeRegressor, StepModel
from predictors.step_time import StepTimeRegressor
from predictors.transfer import MachineRatio, learn_residual, prior_of

if TYPE_CHECKING:
    from planner.core.distribution import Array

Config = tuple[ResourceConfig, Knobs]
Shape = tuple[int, int, int, int, int, int]
"""Nodes, workers on each, micro-batch, tensor and pipeline parallelism, and passes of a step where
that is a language model's: its pipelines fill and drain once a step. 0 elsewhere."""
DRAWS = 256
"""Joint draws of whole runs: enough for covariances to be good to some 6 %."""
_NEARLY_FULL = 0.9
"""Share of the memory from which a configuration counts as bound by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """What is known of one kind of machine; of `evidence` by the configuration.

    `ratio` is None for one that the job was probed on.
    """

    runs: RunTimeRegressor
    probed: frozenset[Shape] = frozenset()
    rows: int = 0
    ratio: MachineRatio | None = None

    def evidence(self, configs: Sequence[Config]) -> list[Evidence]:
        """Where predictions of these configurations come from.

        Of what was carried over: the weaker of what tells it there and of how machines compare.
        """
        step = self.runs.step_
        found: list[Evidence] = ["transfer"] * len(configs)
        language = isinstance(step, LanguageSteps)
        if isinstance(step, LanguageSteps):
            found = step.evidence(features.config_table(configs))
        if self.ratio is not None:
            carried: Evidence = "history" if self.ratio.jobs else "prior"
            return ["prior" if known == "prior" else carried for known in found]
        shapes = [_shape(*config, passes=language) for config in configs]
        return ["probe" if s in self.probed else e for s, e in zip(shapes, found, strict=True)]


class ProbedJobPredictor:
    """Predicts whole runs of one job from its probes; see `predictors.base.JobPredictor`.

    Configurations on a kind of machine that this job was probed on use that machine's own law.
    Others are carried over from the machine with most probes, by the ratio that other jobs showed
    (`predictors.transfer`), with an error to match.

    Args:
        history: Kept probes of other jobs.
        model: What the job trains, where replicas of that may be spread over workers.
        finished: Predicted and real whole-run times (s) of finished runs.
        bills: What finished runs cost.
        saves: Whether the job may write checkpoints.
        seed: Everything drawn at random follows from it.
    """

    def __init__(
        self,
        *,
        history: Sequence[ProbeResult] = (),
        finished: Sequence[tuple[Distribution, float]] = (),
        bills: Sequence[Bill] = (),
        saves: bool = True,
        model: LanguageModel | None = None,
        seed: int = 0,
    ) -> None:
        self.history = tuple(history)
        self.model = model
        self.finished = tuple(finished)
        self.bills = tuple(bills)
        self.saves = saves
        self.seed = seed

    # ---- fitting

    def fit(self, probes: Sequence[ProbeResult]) -> Self:
        """Learn from this job's probes.

        Raises:
            EvidenceError: No probe ended well.
        """
        probes = sorted(unique(probes), key=lambda p: (p.measured_at.timestamp(), p.id))
        probes = [p for p in probes if self._can_be(p.knobs)]
        good = measured(probes)
        own = {p.fingerprint for p in probes}
        others = [p for p in self.history if p.fingerprint not in own]
        self.others_ = tuple(p for p in others if p.knobs.replica_workers == 1)
        self.calibration_: Calibration = calibrate(self.finished)
        self.cost_ = _cost_of(self.bills)
        self.probes_ = tuple(probes)
        alone = [p for p in probes if p.knobs.replica_workers == 1]
        self.residual_ = learn_residual([*self.others_, *alone], seed=self.seed)
        keys = dict.fromkeys(features.machine_key(p.resources) for p in good)
        self.machines_ = {key: self._fit_machine(key, probes) for key in keys}
        self.memory_: JobMemory | LanguageMemory = (
            LanguageMemory(probes, self.model, seed=self.seed)
            if self.model
            else JobMemory(probes, seed=self.seed)
        )
        self.base_ = max(self.machines_, key=lambda key: self.machines_[key].rows)
        self._carried: dict[str, _Machine] = {}
        return self

    def _fit_machine(self, key: str, probes: Sequence[ProbeResult]) -> _Machine:
        good = [p for p in measured(probes) if features.machine_key(p.resources) == key]
        step = self._step_model(good[0], self.residual_)
        runs = RunTimeRegressor(step=step, calibration=self.calibration_, saves=self.saves)
        wall_s = [max(p.wall_s, features.mean_step_s(p)) for p in good]
        weight = [features.step_weight(p, step.trial_sigma) for p in good]
        return _Machine(
            runs=runs.fit(features.trial_table(good), wall_s, weight),
            probed=frozenset(self._shape(p) for p in good),
            rows=len(good),
        )

    def _can_be(self, knobs: Knobs) -> bool:
        """Whether the job, as it is described now, can have been probed so.

        Without a model nothing tells of replicas that several workers share.
        """
        if self.model is None:
            return knobs.replica_workers == 1
        alike = self.model.heads % knobs.tensor_parallel == 0
        return alike and knobs.pipeline_parallel <= self.model.layers

    def _shape(self, probe: ProbeResult) -> Shape:
        return _shape(probe.resources, probe.knobs, passes=self.model is not None)

    def _step_model(
        self, probe: ProbeResult, learned: ResidualModel | None
    ) -> StepTimeRegressor | LanguageSteps:
        """For the machine of a probe: what was learned here goes before what is shipped."""
        shipped = bundled().residual if probe.resources.gpu else None
        plain = StepTimeRegressor(
            prior=prior_of(probe), residual=learned or shipped, random_state=self.seed
        )
        if self.model is None:
            return plain
        return LanguageSteps(model=self.model, gpu=probe.resources.gpu, plain=plain)

    # ---- predicting

    def predict(
        self, configs: Sequence[Config], work: WorkLoad, offers: Sequence[Offer] | None = None
    ) -> list[Prediction]:
        """What each configuration would do with the whole job, in the order given."""
        result: list[Prediction | None] = [None] * len(configs)
        for key, rows in _by_machine(configs).items():
            here = [configs[i] for i in rows]
            asked = features.run_table(here, work, [offers[i] for i in rows] if offers else None)
            for i, prediction in zip(rows, self._predict_machine(key, here, asked), strict=True):
                result[i] = prediction
        return [p for p in result if p is not None]

    def draws(self, configs: Sequence[Config], work: WorkLoad) -> Array:
        """Joint draws of whole-run times, s, shape (`DRAWS`, n); see `JobPredictor.draws`.

        Kinds of machines are drawn independently: a probe of one says nothing of another's law.
        """
        result = np.empty((DRAWS, len(configs)))
        for key, rows in _by_machine(configs).items():
            rng = np.random.default_rng([self.seed, zlib.crc32(key.encode())])
            asked = features.run_table([configs[i] for i in rows], work)
            result[:, rows] = self._machine(key).runs.draws(asked, rng, size=DRAWS)
        return result

    def _machine(self, key: str) -> _Machine:
        """Models of a kind of machine; where there was no probe, those of the best known one."""
        if key in self.machines_:
            return self.machines_[key]
        if key not in self._carried:
            ratio = MachineRatio(self.others_, self.base_, key, seed=self.seed)
            runs = self.machines_[self.base_].runs.carried(ratio)
            self._carried[key] = _Machine(runs=runs, ratio=ratio)
        return self._carried[key]

    def _predict_machine(
        self, key: str, configs: Sequence[Config], asked: features.Table
    ) -> list[Prediction]:
        machine = self._machine(key)
        runs = machine.runs.runs(asked)
        cost_usd = self.cost_.predict_distribution({**asked, "run_s": runs.run_s})
        memory = self.memory_.predict(configs, asked)
        unknown = machine.ratio is not None and machine.ratio.jobs == 0
        bounds: Sequence[Bottleneck] = ["unknown"] * len(configs)
        if not unknown:
            bounds = _bottlenecks(machine.runs.step_, asked, configs, memory.quantiles)
        return self._assemble(
            runs=runs,
            cost_usd=cost_usd,
            widened=machine.runs.widened(runs.plain_s),
            memory=memory,
            bounds=bounds,
            evidence=machine.evidence(configs),
        )

    def _assemble(
        self,
        *,
        runs: Runs,
        cost_usd: Array,
        widened: tuple[Array, Array],
        memory: WorkerMemory,
        bounds: Sequence[Bottleneck],
        evidence: Sequence[Evidence],
    ) -> list[Prediction]:
        calibration = self.calibration_
        rows = zip(
            *(q.tolist() for q in (runs.step_s, runs.run_s, runs.total_s, cost_usd)),
            memory.quantiles.tolist(),
            strict=True,
        )
        return [
            Prediction(
                step_time_s=Distribution(quantiles=tuple(step), evidence=evidence[i]),
                run_s=Distribution(quantiles=tuple(run), evidence=evidence[i]),
                total_s=Distribution(quantiles=tuple(total), evidence=evidence[i]),
                cost_usd=Distribution(quantiles=tuple(cost), evidence=evidence[i]),
                interruptions=float(runs.interruptions[i]),
                interrupted_share=float(1 - runs.plain_s[i, I50] / runs.run_s[i, I50]),
                memory_bytes=Distribution(quantiles=tuple(peak), evidence=memory.evidence[i]),
                memory_parts=memory.parts[i],
                p_oom=float(memory.p_oom[i]),
                bottleneck=bounds[i],
                evidence=evidence[i],
                interval_method=calibration.method,
                calibrated=calibration.radius is not None,
                n_calibration=calibration.n,
                widened_by_runs=float(widened[0][i]),
                widened_by_company=float(widened[1][i]),
            )
            for i, (step, run, total, cost, peak) in enumerate(rows)
        ]

    # ---- telling

    def doubts(self, configs: Sequence[Config]) -> Doubts:
        """What the reader of these predictions should know; see `predictors.doubts`."""
        asked = {key: self._machine(key) for key in _by_machine(configs)}
        return doubts_of(
            self.probes_,
            {key: self._law(key) for key in self.machines_},
            configs,
            base=self.base_,
            compared=[key for key, m in asked.items() if m.ratio and m.ratio.jobs],
        )

    def _law(self, key: str) -> Fitted:
        """What the law of steps on a machine makes of its probes."""
        step = self.machines_[key].runs.step_
        here = [p for p in measured(self.probes_) if features.machine_key(p.resources) == key]
        if isinstance(step, LanguageSteps):
            slowed, torn = step.suspicious()
        elif isinstance(step, StepTimeRegressor):
            slowed, torn = suspicious(step)
        else:
            raise TypeError(f"no law of steps in {type(step).__name__}")
        return Fitted(probes=here, slowed=slowed, torn=torn)

    def card(self) -> ModelCard:
        """What it was fitted on, and its error on probes left out one by one."""
        # Trees that had seen the row which is left out would make the error look small.
        unseen = learn_residual(self.others_, seed=self.seed) if self.residual_ else None
        time_errors: list[float] = []
        memory_errors: list[float] = []
        for key in self.machines_:
            here = [p for p in self.probes_ if features.machine_key(p.resources) == key]
            good = [p for p in here if features.is_measured(p)]
            if len({self._shape(p) for p in good}) > 1:
                fresh = self._step_model(good[0], unseen)
                y = np.asarray([features.mean_step_s(p) for p in good])
                weight = [features.step_weight(p, fresh.trial_sigma) for p in good]
                guess = fresh.leave_one_out(features.probe_table(good), y, weight)
                time_errors += list(np.abs(guess / y - 1))
            # Workers that hold another part of a replica have another law of memory.
            for alike in by_spread(here).values():
                memory_errors += errors_of(alike, seed=self.seed)
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


def _shape(resources: ResourceConfig, knobs: Knobs, *, passes: bool) -> Shape:
    batch = (knobs.tensor_parallel, knobs.pipeline_parallel, knobs.accumulation if passes else 0)
    return resources.nodes, resources.workers_per_node, knobs.micro_batch, *batch


def _cost_of(bills: Sequence[Bill]) -> CostRegressor:
    """What hours cost, from finished runs; as told where there are none that were not free."""
    bills = [b for b in bills if b.run_s > 0 and b.usd_per_h > 0 and b.cost_usd > 0]
    X: Mapping[str, Array] = {
        "run_s": np.asarray([b.run_s for b in bills], dtype=float),
        "usd_per_h": np.asarray([b.usd_per_h for b in bills], dtype=float),
    }
    return CostRegressor().fit(X, [b.cost_usd for b in bills])


def _bottlenecks(
    model: StepModel,
    columns: features.Table,
    configs: Sequence[Config],
    memory: Array,
) -> list[Bottleneck]:
    """What a step waits for most: data, other workers, or the processor (`gpu`, also on CPUs)."""
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
