"""The parts that documents are made of, each from one value of the domain."""

from __future__ import annotations

from planner.core import types as domain
from planner.core.distribution import Distribution
from planner.core.nextprobe import NextProbe
from planner.core.prediction import Interval, MemoryParts
from planner.core.recommendation import Recommendation
from planner.wire import estimate_v1
from planner.wire._numbers import clip, number, share


def option(o: domain.Option) -> estimate_v1.Option:
    """`options[]` of an estimate."""
    return estimate_v1.Option(
        id=o.id,
        rank=o.rank,
        on_front=o.on_front,
        dominated_by=o.dominated_by,
        feasible=o.feasible,
        reasons=[estimate_v1.Reason(code=r.code, text=r.text) for r in o.reasons],
        resources=resources(o.resources),
        knobs=knobs(o.knobs),
        price=price(o.price),
        wait_s=quantiles(o.wait_s),
        run_s=quantiles(o.run_s),
        total_s=quantiles(o.total_s),
        total_interval_s=interval(o.total_interval),
        cost_usd=quantiles(o.cost_usd),
        cost_interval_usd=interval(o.cost_interval),
        gpu_memory_bytes=quantiles(o.memory_bytes),
        memory_parts=memory_parts(o.memory_parts),
        p_oom=clip(o.p_oom),
        p_deadline=share(o.p_deadline),
        p_budget=share(o.p_budget),
        throughput_samples_per_s=quantiles(o.throughput_samples_per_s),
        bottleneck=o.bottleneck,
        expected_interruptions=o.expected_interruptions,
        evidence=o.evidence,
    )


def memory_parts(m: MemoryParts | None) -> estimate_v1.MemoryParts | None:
    """What the peak is made of; null where nothing is known."""
    if m is None:
        return None
    return estimate_v1.MemoryParts(
        context_bytes=m.context_bytes,
        weights_bytes=m.weights_bytes,
        gradients_bytes=m.gradients_bytes,
        optimizer_bytes=m.optimizer_bytes,
        activations_bytes=m.activations_bytes,
        synchronisation_bytes=m.synchronisation_bytes,
        evidence=m.evidence,
    )


def resources(r: domain.ResourceConfig) -> estimate_v1.Resources:
    """Machines and workers."""
    return estimate_v1.Resources(
        runner=r.runner,
        pool=r.pool,
        instance_type=r.instance_type,
        region=r.region,
        zone=r.zone,
        market=r.market,
        nodes=r.nodes,
        gpus_per_node=r.gpus_per_node,
        gpu=r.gpu,
        gpu_memory_bytes=r.gpu_memory_bytes,
        vcpus_per_node=r.vcpus_per_node,
    )


def knobs(k: domain.Knobs) -> estimate_v1.Knobs:
    """Batches, loaders, precision."""
    return estimate_v1.Knobs(
        micro_batch=k.micro_batch,
        accumulation=k.accumulation,
        global_batch=k.global_batch,
        loader_workers=k.loader_workers,
        precision=k.precision,
        checkpoint_interval_s=k.checkpoint_interval_s,
        tensor_parallel=k.tensor_parallel,
        pipeline_parallel=k.pipeline_parallel,
    )


def price(p: domain.PriceQuote) -> estimate_v1.Price:
    """A price and its age."""
    return estimate_v1.Price(
        usd_per_h=p.usd_per_h,
        source=p.source,
        as_of=p.as_of,
        age_s=max(p.age_s, 0.0),
        stale=p.stale,
        p50_24h_usd_per_h=number(p.p50_24h_usd_per_h),
        p90_24h_usd_per_h=number(p.p90_24h_usd_per_h),
        interruptions_per_h=number(p.interruptions_per_h),
    )


def probe(p: domain.ProbeResult) -> estimate_v1.Probe:
    """`probes[]` of an estimate, and of the event that tells of one."""
    step_s = Distribution.from_samples(p.step_time_s) if p.step_time_s else None
    wait = None
    if p.loader_wait_s is not None and p.step_time_s:
        wait = clip(p.loader_wait_s * len(p.step_time_s) / max(sum(p.step_time_s), 1e-9))
    return estimate_v1.Probe(
        id=p.id,
        resources=resources(p.resources),
        knobs=knobs(p.knobs),
        state=p.state,
        steps=p.steps,
        warmup_steps=p.warmup_steps,
        step_s=quantiles_or_none(step_s),
        peak_gpu_memory_bytes=p.peak_device_bytes,
        loader_wait_fraction=wait,
        wall_s=max(p.wall_s, 0.0),
        cost_usd=p.cost_usd,
        error=p.error,
    )


def next_probe(n: NextProbe) -> estimate_v1.NextProbe:
    """What one more probe would buy."""
    return estimate_v1.NextProbe(
        option_id=n.option_id,
        reason=n.reason,
        time_s=n.time_s,
        cost_usd=n.cost_usd,
        saves_usd=number(n.saves_usd),
        saves_s=number(n.saves_s),
        p_change=share(n.p_change),
    )


def model(card: domain.ModelCard) -> estimate_v1.Model:
    """How good the predictors have been."""
    return estimate_v1.Model(
        id=card.id,
        n_train=card.n_train,
        coverage=share(card.coverage),
        time_mape=number(card.time_mape),
        memory_mape=number(card.memory_mape),
    )


def recommendation(r: Recommendation) -> estimate_v1.Recommendation:
    """The pick and its flips."""
    return estimate_v1.Recommendation(
        option_id=r.option_id,
        rule=r.rule,
        text=r.text,
        flips=[
            estimate_v1.Flip(to=f.to, variable=f.variable, op=f.op, value=f.value, unit=f.unit)
            for f in r.flips
        ],
    )


def interval(i: Interval) -> estimate_v1.Interval:
    """An interval and how far it can be trusted."""
    return estimate_v1.Interval(
        level=i.level,
        lo=i.lo,
        hi=i.hi,
        method=i.method,
        calibrated=i.calibrated,
        n_calibration=i.n_calibration,
    )


def quantiles(d: Distribution) -> estimate_v1.Quantiles:
    """A distribution as it is written: three quantiles and the mean."""
    return estimate_v1.Quantiles(p05=d.p05, p50=d.p50, p95=d.p95, mean=d.mean)


def quantiles_or_none(d: Distribution | None) -> estimate_v1.Quantiles | None:
    """The same; null where nothing is known."""
    return None if d is None else quantiles(d)
