"""What the reader of an estimate should know, each under a stable code."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import median

from planner.core.job import JobSpec
from planner.core.prediction import Prediction
from planner.core.replicas import layout_text, spread_text
from planner.core.types import ModelCard, Option, ProbeResult, Warning_, WorkLoad
from planner.core.units import format_duration

DEFAULT_BATCH = 64
"""Global batch of a job that neither says its own nor has it told by the script."""
_WIDENED = 1.2
"""Less of a widening is not worth a word."""
_WIDENED_AT_ALL = 1.005
"""Less of a widening cannot be seen in the numbers that are shown."""
_LIKELY = 0.5
_HARDLY = 0.9
"""More of a run's time than this lost to interruptions: it takes ten times as long as without."""
_BUSY_CORES = 0.2
"""Less than this is what any machine does besides."""


def assumed_batch() -> Warning_:
    """Nothing told the global batch."""
    return Warning_(
        code="job.global_batch_assumed",
        text=f"Nothing says how many samples one step takes: a global batch of {DEFAULT_BATCH} "
        "is assumed.",
        hint="Set global_batch in [job].",
    )


def batch_warning(probes: Sequence[ProbeResult], asked: int) -> tuple[Warning_, ...]:
    """The script took another batch than it was told."""
    other = [p for p in probes if p.state == "ok" and p.knobs.global_batch != asked]
    seen = sorted({p.knobs.global_batch for p in other})
    if not seen:
        return ()
    taken = " and ".join(map(str, seen))
    text = f"The script takes {taken} samples a step, where {asked} were asked for."
    hint = "Set global_batch in [job] to what the script does, or let it obey planner's."
    if all(p.knobs.replica_workers > 1 for p in other):
        hint = (
            "Let the script share a replica over its workers as {tensor_parallel} and "
            "{pipeline_parallel} say, or leave [parallel] out."
        )
    return (Warning_(code="job.global_batch_ignored", text=text, hint=hint),)


def work_warnings(job: JobSpec, work: WorkLoad) -> tuple[Warning_, ...]:
    """How much work is planned for, where the job and the script differ or the script is silent."""
    planned = "1 epoch" if work.epochs == 1 else f"{work.epochs:g} epochs"
    if work.epochs != job.epochs:
        text = f"The script makes {planned}, and that is planned for; the job says {job.epochs}."
        hint = "Set epochs in [job] to the same, or pass {epochs} to the script."
        return (Warning_(code="job.epochs_differ", text=text, hint=hint),)
    if job.tier == 0:
        text = (
            f"The script does not tell planner its work: {planned} of {work.samples} samples are "
            "planned for, as the job file and the data say."
        )
        hint = "Check epochs and samples in [job], or use the SDK (docs/training-script.md)."
        return (Warning_(code="job.work_untold", text=text, hint=hint),)
    return ()


def batch_over_data(global_batch: int, work: WorkLoad) -> tuple[Warning_, ...]:
    """A step takes more samples than an epoch has."""
    if global_batch <= work.samples:
        return ()
    text = (
        f"The global batch of {global_batch} is more than the {work.samples} samples of an epoch: "
        "a step takes fewer samples than it was planned with, or none where the script drops "
        "batches that are not full."
    )
    hint = "Set a smaller global_batch in [job], or check samples and data there."
    return (Warning_(code="job.batch_over_data", text=text, hint=hint),)


def reuse_warning(reused: Sequence[ProbeResult], now: datetime) -> tuple[Warning_, ...]:
    """How old the evidence is, when it was not made now."""
    if not reused:
        return ()
    age_s = max(0.0, (now - min(p.measured_at for p in reused)).total_seconds())
    count = "1 probe is" if len(reused) == 1 else f"{len(reused)} probes are"
    text = (
        f"{count} reused; the oldest was made {format_duration(age_s)} ago. Intervals allow for "
        "the same drift of the machine whatever the age."
    )
    return (Warning_(code="probe.reused", text=text, hint="--fresh measures again"),)


def drift_warning(card: ModelCard, predictions: Sequence[Prediction]) -> tuple[Warning_, ...]:
    """Intervals are wider than the probes alone make them, because of how finished runs went."""
    times = median([p.widened_by_runs for p in predictions] or [1.0])
    if times < _WIDENED:
        return ()
    runs = "1 finished run" if card.n_runs == 1 else f"{card.n_runs} finished runs"
    text = (
        f"Intervals are {times:.1f} times as wide because of {runs}: real times differed "
        "from predicted ones by more than is assumed at first."
    )
    hint = "planner compare RUN RUN shows how runs differed; every job's runs count."
    return (Warning_(code="model.intervals_widened", text=text, hint=hint),)


def probe_warnings(probes: Sequence[ProbeResult]) -> tuple[Warning_, ...]:
    """Probes that did not end well, each with its reason."""
    found = []
    for probe in probes:
        shape = shape_text(probe)
        if probe.state in ("failed", "preempted"):
            text = f"The probe of {shape} failed: {probe.error}."
            hint = "Its last lines are under probes[].log of the kept estimate."
            found.append(Warning_(code="probe.failed", text=text, hint=hint))
        elif probe.state == "oom":
            text = f"The probe of {shape} ran out of memory: {probe.error}."
            found.append(Warning_(code="probe.oom", text=text))
        elif probe.state == "skipped":
            text = f"The probe of {shape} has no result: {probe.error}."
            found.append(Warning_(code="probe.skipped", text=text))
        elif probe.error:
            text = f"The probe of {shape}: {probe.error}."
            found.append(Warning_(code="probe.checkpoint_failed", text=text))
    return tuple(found)


def shape_text(probe: ProbeResult) -> str:
    """A probe by its workers, how replicas are spread over them, and micro-batch."""
    workers, layout = probe.resources.workers, layout_text(probe.knobs)
    spread = f" ({layout})" if layout else ""
    return f"{workers} worker{'s' * (workers > 1)}{spread} x {probe.knobs.micro_batch}"


def busy_warning(
    probes: Sequence[ProbeResult], predictions: Sequence[Prediction]
) -> tuple[Warning_, ...]:
    """The machine was not the probes' own while they ran."""
    taken = max((p.other_cores or 0.0 for p in probes if p.state == "ok"), default=0.0)
    if taken < _BUSY_CORES:
        return ()
    text = (
        f"Other programs took up to {taken:.1f} cores from the probes: times are longer for it, "
        "and will differ when the machine is quiet."
    )
    wider = [p.widened_by_company > _WIDENED_AT_ALL for p in predictions]
    if any(wider):
        text += (
            f" {'Intervals' if all(wider) else 'Some intervals'} are wider for that, by a guess."
        )
    hint = "Estimate again with --fresh on a quiet machine."
    return (Warning_(code="machine.busy", text=text, hint=hint),)


def interrupted_warning(predictions: Sequence[Prediction]) -> tuple[Warning_, ...]:
    """Options that interruptions hardly let come to an end."""
    lost = sum(p.interrupted_share > _HARDLY for p in predictions)
    if not lost:
        return ()
    text = (
        f"{lost} of {len(predictions)} options will hardly ever finish: interruptions "
        f"undo more than {_HARDLY:.0%} of what they do."
    )
    hint = (
        "Let the script save more often (checkpoint_interval), or use machines that are seldom "
        "interrupted."
    )
    return (Warning_(code="run.hardly_finishes", text=text, hint=hint),)


def option_warnings(options: Sequence[Option]) -> tuple[Warning_, ...]:
    """What the options' numbers rest on."""
    found = []
    if options and all(o.evidence == "prior" for o in options):
        text = "Nothing like these options was measured: all numbers are guesses from a prior."
        hint = "Let planner probe: leave out --no-probe."
        found.append(Warning_(code="model.prior_only", text=text, hint=hint))
    if options and not any(o.resources.gpus_per_node for o in options):
        text = "Memory is the resident memory of one worker's processes, as there is no GPU."
        found.append(Warning_(code="memory.rss", text=text))
    return (*found, *_memory_warnings(options))


def _memory_warnings(options: Sequence[Option]) -> tuple[Warning_, ...]:
    """Options that need more memory than there is, or nobody knows how much."""
    found = []
    beyond = [o for o in options if o.p_oom > _LIKELY]
    if beyond:
        text = (
            f"{len(beyond)} of {len(options)} options will most likely run out of memory "
            f"({_batches_text(options, beyond)}): they are refused."
        )
        hint = (
            "Smaller micro_batches in [job] need less; their accumulation keeps the global batch."
        )
        found.append(Warning_(code="memory.beyond", text=text, hint=hint))
    if any(o.memory_bytes.p95 <= 0 for o in options):
        refused = "only what a probe ran out of it with, or more, is" if beyond else "no option is"
        text = f"No probe told how much memory the job needs: {refused} refused for it."
        hint = "Estimate again with --fresh where probes see memory (docs/prediction/memory.md)."
        found.append(Warning_(code="memory.unknown", text=text, hint=hint))
    return tuple(found)


def _batches_text(options: Sequence[Option], beyond: Sequence[Option]) -> str:
    """The batches that are too large; by layout where one takes what is too large for another."""
    least: dict[tuple[int, int], int] = {}
    for option in beyond:
        knobs = option.knobs
        way = knobs.tensor_parallel, knobs.pipeline_parallel
        least[way] = min(least.get(way, knobs.micro_batch), knobs.micro_batch)
    smallest = min(least.values())
    fits = [o.knobs for o in options if o.p_oom <= _LIKELY and o.knobs.micro_batch >= smallest]
    others = {(k.tensor_parallel, k.pipeline_parallel) for k in fits}
    if not others - {way for way, batch in least.items() if batch == smallest}:
        return f"micro-batches of {smallest} and more"
    each = [
        f"{batch} and more with {spread_text(*way) or 'a worker a replica'}"
        for way, batch in sorted(least.items())
    ]
    return f"micro-batches of {', '.join(each)}"
