"""One probe: launch, watch, stop, release, and the result that comes of it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

import psutil

from planner.core.clock import Clock
from planner.core.errors import RunnerError
from planner.core.events import EventSink
from planner.core.job import JobSpec
from planner.core.types import Knobs, ProbeResult, ProbeState, ResourceConfig
from planner.core.units import format_duration
from planner.services import failure
from planner.services.api import Cancel
from planner.services.estimating.candidates import Trial, find_runner
from planner.services.estimating.probewatch import Outside, ProbeWatch, whole
from planner.services.estimating.slicing import Slice
from planner.services.estimating.steady import steady_from
from planner.services.jobenv import render_argv, worker_env
from planner.store.files import save
from planner.store.layout import make_folder
from runners.base import Handle, LaunchSpec, Runner, Status, WorkerState
from runners.staging import stage_sdk

POLL_S = 0.1
MEASURE_S = 0.5
PROGRESS_S = 0.5
CRASH_GRACE_S = 10.0
"""After one worker failed, the others get so long to fail on their own."""
ENOUGH_STEPS = 8
"""A probe that is cut off by a cap still counts with so many steady steps."""
_EXIT_STOPPED = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """How a probe came to its end: by itself (`status`), or because it was stopped."""

    status: Status | None = None
    stopped: str | None = None
    hung: bool = False
    unreachable: str | None = None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One launch of one probe.

    Attributes:
        key: The probe's id, also the run id its processes carry.
        index: Its place in the sequence, from 1.
        data: What `{data}` becomes.
        samples: Training samples of the whole data set; None when only the job can say.
        folder: Where the attempt's folder is made; it is removed in the end.
        allowance_s: It is stopped after so long.
        limit_text: What is said then.
    """

    job: JobSpec
    trial: Trial
    key: str
    index: int
    fingerprint: str
    data: Slice
    samples: int | None
    folder: Path
    clock: Clock
    on_event: EventSink
    cancel: Cancel | None
    allowance_s: float
    limit_text: str
    _outside: Outside = field(default_factory=Outside)

    def run(self) -> ProbeResult:
        """Launch, watch and release; the result tells what became of it.

        Raises:
            UsageError: The command or the environment cannot be made.
            CleanupError: A process could not be ended.
            StoreError: The attempt's folder cannot be written.
        """
        work = make_folder(self.folder / f"{self.key}-{uuid.uuid4().hex[:8]}")
        try:
            return self._run_in(work)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _run_in(self, work: Path) -> ProbeResult:
        spec = self._spec(work)
        self.on_event(
            "probe.started", {"id": self.key, "index": self.index, "steps_total": self._steps}
        )
        watch = ProbeWatch(Path(spec.attempt_dir), self.trial.resources.workers)
        runner = find_runner(self.trial.place)
        launched_at, start_s = self.clock.now().timestamp(), self.clock.monotonic_s()
        try:
            handle = runner.launch(spec)
        except RunnerError as error:
            wall_s = self.clock.monotonic_s() - start_s
            return self._result("failed", wall_s, error=f"cannot be started: {error.text}")
        try:
            save(Path(spec.attempt_dir) / "handle.json", handle)
            ending = self._watch(runner, handle, watch, start_s)
        finally:
            runner.release(handle)
        watch.read()
        wall_s = self.clock.monotonic_s() - start_s
        return self._judge(ending, watch, launched_at, wall_s, Path(spec.attempt_dir))

    @property
    def _steps(self) -> int:
        return self.job.probe.steps + self.job.probe.warmup_steps

    def _spec(self, work: Path) -> LaunchSpec:
        names = ("attempt", "stage", "checkpoints", "output")
        attempt, stage, checkpoints, output = (make_folder(work / name) for name in names)
        crew = make_folder(work / "crew")
        crew.chmod(0o700)
        stage_sdk(stage)
        resources, knobs = self.trial.resources, self.trial.knobs
        return LaunchSpec(
            run_id=self.key,
            attempt=1,
            idempotency_key=work.name,
            argv=render_argv(
                self.job,
                resources=resources,
                knobs=knobs,
                run_id=self.key,
                data=self.data.path,
                checkpoint_dir=str(checkpoints),
                output_dir=str(output),
            ),
            workdir=self.job.workdir,
            env=worker_env(
                self.job,
                resources=resources,
                knobs=knobs,
                run_id=self.key,
                attempt=1,
                control=str(work / "control.json"),
                checkpoint_dir=str(checkpoints),
                output_dir=str(output),
                probe_steps=self._steps,
            ),
            resources=resources,
            place=self.trial.place,
            crew_dir=str(crew),
            attempt_dir=str(attempt),
            stage_dir=str(stage),
            stop_grace_s=0.0,
        )

    # ---- watching

    def _watch(self, runner: Runner, handle: Handle, watch: ProbeWatch, start_s: float) -> _Ending:
        signs, last_sign_s, failed_s = 0, start_s, None
        next_measure_s = next_progress_s = start_s
        psutil.cpu_percent()  # the first call only sets the clock
        while True:
            watch.read()
            now_s = self.clock.monotonic_s()
            try:
                status = runner.poll(handle)
                if not status.running:
                    return _Ending(status=status)
                if now_s >= next_measure_s:
                    next_measure_s = now_s + MEASURE_S
                    self._measure(runner, handle)
            except RunnerError as error:
                return _Ending(unreachable=error.text)
            if watch.signs > signs:
                signs, last_sign_s = watch.signs, now_s
            if now_s >= next_progress_s:
                next_progress_s = now_s + PROGRESS_S
                self._tell(watch, now_s - start_s)
            if any(_has_failed(status)):
                failed_s = now_s if failed_s is None else failed_s
                if now_s - failed_s >= CRASH_GRACE_S:
                    return _Ending(status=status)
            stopped = self._reason_to_stop(now_s - start_s)
            if stopped:
                return _Ending(stopped=stopped)
            if now_s - last_sign_s >= self.job.probe.hang_timeout_s:
                return _Ending(hung=True)
            self.clock.sleep(POLL_S)

    def _reason_to_stop(self, elapsed_s: float) -> str | None:
        if self.cancel is not None and self.cancel.is_set():
            return "probing was stopped"
        return self.limit_text if elapsed_s >= self.allowance_s else None

    def _measure(self, runner: Runner, handle: Handle) -> None:
        resources = self.trial.resources
        measured = runner.measure(handle)
        for worker in measured:
            self._outside.add(worker, on_gpu=resources.gpus_per_node > 0)
        shares = [w.cpu_fraction for w in measured if w.cpu_fraction is not None]
        if resources.market == "local" and len(shares) == resources.workers:
            cores = psutil.cpu_count() or 1
            self._outside.add_machine(
                busy_cores=psutil.cpu_percent() / 100 * cores,  # since the last call
                cores=cores,
                own_cores=sum(shares) * resources.vcpus_per_node / resources.workers_per_node,
            )

    def _tell(self, watch: ProbeWatch, elapsed_s: float) -> None:
        done, warmup = len(watch.step_time_s), self.job.probe.warmup_steps
        if done == 0:
            phase = "starting"
        elif done < warmup:
            phase = "warm-up"
        else:
            phase = "measuring" if done < self._steps else "ending"
        self.on_event(
            "probe.progress",
            {
                "id": self.key,
                "index": self.index,
                "phase": phase,
                **watch.progress(),
                "steps_total": self._steps,
                "memory_bytes": self._outside.peak_bytes,
                "gpu_utilisation": self._outside.gpu_utilisation,
                "elapsed_s": elapsed_s,
                "cost_usd": self._cost_usd(elapsed_s),
            },
        )

    # ---- judging

    def _judge(
        self, ending: _Ending, watch: ProbeWatch, launched_at: float, wall_s: float, logs: Path
    ) -> ProbeResult:
        workers = range(self.trial.resources.workers)
        errors = [failure.tail(logs / f"worker-{rank}.err") for rank in workers]
        state, error = self._verdict(ending, watch, errors)
        times, waits = watch.full_steps()
        dropped = steady_from(times, self.job.probe.warmup_steps)
        steady, waited = times[dropped:], waits[dropped:]
        if ending.stopped and len(steady) >= ENOUGH_STEPS:
            state, error = "ok", None
        ok = state == "ok"
        guilty = failure.guilty_rank(ending.status, errors) if ending.status else 0
        said = errors[guilty] or failure.tail(logs / f"worker-{guilty}.out")
        first = watch.first_step_at
        start_s = None if first is None else max(0.0, first - launched_at)
        cut, rest_s = ending.stopped is not None, None
        if ok and not cut and start_s is not None:
            rest_s = watch.rest_s(wall_s, start_s, dropped=dropped)
        base = self._result(state, wall_s, error=error)
        return replace(
            base,
            knobs=_real_knobs(self.trial.knobs, watch),
            steps=len(steady) if ok else len(times),
            warmup_steps=dropped if ok else 0,
            step_time_s=tuple(steady) if ok else (),
            loader_wait_s=sum(waited) / len(waited) if ok and waited else None,
            start_s=start_s,
            tail_s=fmean(watch.tails_s) if watch.tails_s else None,
            tail_samples=self.data.tail_samples if watch.tails_s else None,
            checkpoint_s=fmean(watch.checkpoints_s) if watch.checkpoints_s else None,
            checkpoint_bytes=watch.checkpoint_bytes,
            rest_s=rest_s,
            cut=cut,
            peak_device_bytes=self._inside(watch),
            reserved_device_bytes=watch.reserved_device_bytes,
            model_bytes=watch.model_bytes,
            gradient_bytes=watch.gradient_bytes,
            optimizer_bytes=watch.optimizer_bytes,
            capacity_bytes=self._capacity(watch),
            slice_samples=self.data.train_samples or watch.samples,
            samples=self.samples or (watch.samples if self.data.fraction == 1.0 else None),
            epochs=whole(watch.attached, "epochs"),
            log=() if ok else failure.log_lines(said),
        )

    def _verdict(
        self, ending: _Ending, watch: ProbeWatch, errors: Sequence[str]
    ) -> tuple[ProbeState, str | None]:
        """The state, and the reason in one line."""
        done = len(watch.step_time_s)
        if ending.stopped:
            return "skipped", f"{ending.stopped} after {done} steps"
        if ending.unreachable:
            return "preempted", ending.unreachable
        if ending.hung or ending.status is None:
            waited = format_duration(self.job.probe.hang_timeout_s)
            return "failed", f"hung: nothing happened for {waited} after {done} steps"
        if any(_has_failed(ending.status)):
            return self._failure(ending.status, watch, errors)
        if done == 0:
            return "failed", _NO_STEP[self.job.tier]
        if watch.checkpoint_error:
            return "ok", f"no checkpoint could be written: {watch.checkpoint_error}"
        return "ok", None

    def _failure(
        self, status: Status, watch: ProbeWatch, errors: Sequence[str]
    ) -> tuple[ProbeState, str]:
        rank = failure.guilty_rank(status, errors)
        line = failure.last_error_line(errors[rank])
        code = status.workers[rank].exit_code
        exited = failure.describe_exit(code)
        reason = f"{line} ({exited}" if line else f"the command {exited} (without a message"
        reason += f", at step {len(watch.step_time_s)})" if watch.step_time_s else ")"
        peak = max(self._inside(watch) or 0, self._outside.peak_bytes or 0)
        if any(map(failure.is_out_of_memory, errors)):
            return "oom", reason
        if failure.was_killed_for_memory(status.exit_codes, peak, self._capacity(watch)):
            return "oom", f"killed for memory: {reason}"
        lost = status.workers[rank].state == WorkerState.LOST
        return "preempted" if lost or code == _EXIT_STOPPED else "failed", reason

    def _inside(self, watch: ProbeWatch) -> int | None:
        on_gpu = self.trial.resources.gpus_per_node > 0
        return watch.peak_device_bytes if on_gpu else watch.peak_rss_bytes

    def _capacity(self, watch: ProbeWatch) -> int | None:
        return worker_capacity_bytes(self.trial.resources) or (
            whole(watch.attached, "device_memory_bytes")
            if self.trial.resources.gpus_per_node
            else None
        )

    def _result(self, state: ProbeState, wall_s: float, *, error: str | None) -> ProbeResult:
        return ProbeResult(
            id=self.key,
            fingerprint=self.fingerprint,
            resources=self.trial.resources,
            knobs=self.trial.knobs,
            state=state,
            measured_at=self.clock.now(),
            peak_outside_bytes=self._outside.peak_bytes,
            gpu_utilisation=self._outside.gpu_utilisation,
            other_cores=self._outside.other_cores,
            wall_s=wall_s,
            cost_usd=self._cost_usd(wall_s),
            error=error,
        )

    def _cost_usd(self, wall_s: float) -> float:
        return self.trial.offer.price.usd_per_h * wall_s / 3600


_NO_STEP = {
    0: "the command ended well, but no optimiser step was seen: tier 0 needs a torch optimiser",
    1: "the command ended well, but no step was reported: does it loop over job.epochs(loader)?",
}


def worker_capacity_bytes(resources: ResourceConfig) -> int | None:
    """Memory that one worker could use: its GPU's, or its share of the machine's on CPU slots."""
    if resources.gpus_per_node:
        return resources.gpu_memory_bytes
    if resources.memory_bytes_per_node is None:
        return None
    return resources.memory_bytes_per_node // resources.workers_per_node


def _has_failed(status: Status) -> list[bool]:
    return [
        w.state == WorkerState.LOST or (w.state == WorkerState.EXITED and w.exit_code != 0)
        for w in status.workers
    ]


def _real_knobs(asked: Knobs, watch: ProbeWatch) -> Knobs:
    """What the script really did, as far as it told: it may have its own mind about the batch."""
    batch = whole(watch.attached, "global_batch") or asked.global_batch
    micro = whole(watch.attached, "micro_batch") or asked.micro_batch or batch
    accumulation = whole(watch.attached, "accumulation") or asked.accumulation
    if watch.attached.get("accumulation") is None and asked.accumulation > 1:
        micro = asked.micro_batch  # a loader tells what a script cuts up by itself
    loading = whole(watch.attached, "loader_workers")
    return replace(
        asked,
        global_batch=batch,
        micro_batch=min(micro, batch),
        accumulation=max(1, accumulation),
        loader_workers=asked.loader_workers if loading is None else loading,
    )
