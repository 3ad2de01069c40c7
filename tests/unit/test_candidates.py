"""Which configurations are proposed, and which few of them are tried."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from planner.core.distribution import Distribution
from planner.core.errors import ConfigError, UsageError
from planner.core.job import AdjustPolicy, JobSpec, LanguageModel, Place
from planner.core.types import Offer, PriceQuote, ResourceConfig
from planner.services.estimating.candidates import (
    Offers,
    Trial,
    ask_places,
    batch_unknown,
    design,
    trials,
)

LOCAL = Place(runner="local", pool="cpu", settings={"slots": 4, "usd_per_slot_h": 0.05})
JOB = JobSpec(
    name="j", command=("python", "t.py"), workdir="/j", tier=1, places=(LOCAL,), global_batch=64
)


def offers(*workers: int, gpu: str | None = None, usd_per_h: float = 1.0) -> Offers:
    def offer(count: int) -> Offer:
        return Offer(
            resources=ResourceConfig(
                runner="local",
                pool="gpu" if gpu else "cpu",
                market="local",
                workers_per_node=count,
                gpus_per_node=count if gpu else 0,
                gpu=gpu,
            ),
            price=PriceQuote(
                usd_per_h=usd_per_h * count, source="contract", as_of=datetime.now(UTC)
            ),
            wait_s=Distribution.exactly(0),
        )

    return Offers(found=tuple((LOCAL, offer(w)) for w in workers))


def shapes(found: tuple[Trial, ...]) -> list[tuple[int, int, int]]:
    return [(t.resources.workers, t.knobs.micro_batch, t.knobs.accumulation) for t in found]


def all_of(job: JobSpec, given: Offers, batch: int = 64) -> list[tuple[int, int, int]]:
    return shapes(trials(job, given, batch, distributed=True)[0])


def test_every_candidate_keeps_the_global_batch() -> None:
    found, _ = trials(JOB, offers(1, 2, 3, 4), 64, distributed=True)
    assert all(
        t.resources.workers * t.knobs.micro_batch * t.knobs.accumulation == 64
        and t.knobs.global_batch == 64
        for t in found
    )
    assert {t.resources.workers for t in found} == {1, 2, 4}


def test_micro_batches_are_a_share_cut_by_powers_of_two() -> None:
    assert all_of(JOB, offers(2)) == [(2, 32, 1), (2, 16, 2), (2, 8, 4), (2, 4, 8)]


def test_batch_normalisation_keeps_its_two_samples() -> None:
    assert all_of(JOB, offers(2), batch=8) == [(2, 4, 1), (2, 2, 2)]


def test_the_job_restricts_micro_batches_and_workers() -> None:
    job = replace(JOB, micro_batches=(16, 24, 64), worker_counts=(1, 4))
    assert all_of(job, offers(1, 2, 4)) == [(1, 64, 1), (1, 16, 4), (4, 16, 1)]


def test_without_the_sdk_nobody_accumulates() -> None:
    assert all_of(replace(JOB, tier=0), offers(1, 2)) == [(1, 64, 1), (2, 32, 1)]


def test_without_the_sdk_other_global_batches_need_leave() -> None:
    job = replace(JOB, tier=0, micro_batches=(16, 32))
    assert all_of(job, offers(1)) == [(1, 64, 1)]
    allowed = replace(job, adjust=AdjustPolicy(allow=("global_batch",), never=()))
    found, _ = trials(allowed, offers(2), 64, distributed=True)
    assert [(t.knobs.micro_batch, t.knobs.global_batch) for t in found] == [(32, 64), (16, 32)]


def test_a_script_that_is_not_distributed_gets_one_worker_and_a_warning() -> None:
    found, warnings = trials(JOB, offers(1, 2), 64, distributed=False)
    assert {t.resources.workers for t in found} == {1}
    assert [w.code for w in warnings] == ["job.not_distributed"]
    assert "set workers in [job]" in (warnings[0].hint or ""), "the key of a job file"


def test_wanted_workers_that_no_place_has_are_told() -> None:
    job = replace(JOB, worker_counts=(1, 4))
    found, warnings = trials(job, offers(1, 2), 64, distributed=True)
    assert {t.resources.workers for t in found} == {1}
    assert [w.code for w in warnings] == ["job.workers_not_offered"]
    assert "workers = 4" in warnings[0].text
    with pytest.raises(UsageError, match=r"no place offers workers = 4, 8: there are 1, 2"):
        trials(replace(JOB, worker_counts=(4, 8)), offers(1, 2), 64, distributed=True)


@pytest.mark.parametrize(("tier", "unused"), [(1, "24"), (0, "16, 24")])
def test_wanted_micro_batches_that_cannot_be_are_told(tier: int, unused: str) -> None:
    job = replace(JOB, tier=tier, micro_batches=(16, 24, 64))
    _, warnings = trials(job, offers(1), 64, distributed=True)
    assert [w.code for w in warnings] == ["job.micro_batches_unused"]
    assert f"micro_batches = {unused} is left out" in warnings[0].text
    fitting = replace(JOB, micro_batches=(16, 64))
    assert trials(fitting, offers(1), 64, distributed=True)[1] == ()


def test_when_nothing_fits_the_job_is_told() -> None:
    with pytest.raises(UsageError, match="global batch of 7"):
        trials(replace(JOB, worker_counts=(2,)), offers(2), 7, distributed=True)


# ---- the design


def test_the_reference_comes_first_then_the_largest_shape() -> None:
    found, _ = trials(JOB, offers(1, 2, 3, 4), 64, distributed=True)
    assert shapes(design(found)) == [(1, 64, 1), (4, 16, 1), (1, 8, 8), (2, 32, 1)]


def test_two_workers_need_three_probes() -> None:
    found, _ = trials(JOB, offers(1, 2), 64, distributed=True)
    assert shapes(design(found)) == [(1, 64, 1), (2, 32, 1), (1, 8, 8)]


def test_a_single_configuration_is_probed_once() -> None:
    found, _ = trials(replace(JOB, micro_batches=(64,)), offers(1), 64, distributed=True)
    assert shapes(design(found)) == [(1, 64, 1)]


def test_each_kind_of_machine_is_probed_through_its_cheapest_offer() -> None:
    dear, cheap = offers(1, 2, gpu="L4", usd_per_h=3), offers(1, 2, gpu="L4", usd_per_h=1)
    other = offers(1, gpu="A100")
    given = Offers(found=(*dear.found, *cheap.found, *other.found))
    found, _ = trials(replace(JOB, micro_batches=(32,)), given, 64, distributed=True)
    chosen = design(found)
    assert sorted((t.resources.gpu or "", t.resources.workers) for t in chosen) == [
        ("A100", 1),
        ("L4", 1),
        ("L4", 2),
    ]
    assert all(t.offer.price.usd_per_h < 3 for t in chosen)


# ---- places


def test_local_slots_are_offered_with_their_price() -> None:
    found = ask_places(JOB).found
    assert [(o.resources.workers, o.price.usd_per_h) for _, o in found] == [
        (n, pytest.approx(0.05 * n)) for n in (1, 2, 3, 4)
    ]


def test_a_runner_that_is_not_installed_is_left_out_with_a_warning() -> None:
    job = replace(JOB, places=(Place(runner="slurm", pool="gpu"), LOCAL))
    asked = ask_places(job)
    assert len(asked.found) == 4
    assert [w.code for w in asked.warnings] == ["runner.unavailable"]
    assert "slurm" in asked.warnings[0].text


def test_when_no_runner_is_left_it_is_an_error() -> None:
    with pytest.raises(UsageError, match="no-such-runner"):
        ask_places(replace(JOB, places=(Place(runner="no-such-runner", pool="x"),)))


def test_a_wrong_setting_is_never_only_a_warning() -> None:
    wrong = Place(runner="local", pool="cpu", settings={"slotz": 2})
    with pytest.raises(ConfigError, match="slotz"):
        ask_places(replace(JOB, places=(LOCAL, wrong)))


def test_a_job_that_may_run_nowhere_is_refused() -> None:
    with pytest.raises(UsageError, match="nowhere"):
        ask_places(replace(JOB, places=()))


def test_a_place_without_a_price_is_said_to_be_free() -> None:
    free = Place(runner="local", pool="cpu", settings={"slots": 1})
    assert [w.code for w in ask_places(replace(JOB, places=(free,))).warnings] == ["price.free"]


# ---- replicas that several workers hold

GPT = replace(
    JOB,
    tier=0,
    model=LanguageModel(hidden=64, layers=4, heads=4, sequence=32, vocabulary=256),
    tensor_parallel=(1, 2),
    pipeline_parallel=(1, 2),
    command=("python", "t.py", "{micro_batch}", "{global_batch}"),
)


def spreads(found: tuple[Trial, ...]) -> set[tuple[int, int, int, int, int]]:
    return {
        (t.resources.workers, t.knobs.tensor_parallel, t.knobs.pipeline_parallel,
         t.knobs.micro_batch, t.knobs.accumulation)
        for t in found
    }  # fmt: skip


def test_replicas_share_the_global_batch_whatever_they_are_spread_over() -> None:
    found, _ = trials(GPT, offers(1, 2, 3, 4), 64, distributed=True)
    for trial in found:
        knobs = trial.knobs
        assert trial.resources.workers % knobs.replica_workers == 0
        replicas = knobs.replicas(trial.resources.workers)
        assert replicas * knobs.micro_batch * knobs.accumulation == knobs.global_batch == 64
    whole = {shape[:3] for shape in spreads(found)}
    assert whole == {
        (1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 1, 2), (4, 1, 1), (4, 2, 1), (4, 1, 2), (4, 2, 2),
    }  # fmt: skip


def test_workers_that_share_layers_are_on_one_node() -> None:
    apart = offers(1)
    place, offer = apart.found[0]
    two = replace(offer, resources=replace(offer.resources, nodes=2, workers_per_node=1))
    found, _ = trials(GPT, Offers(found=((place, two),)), 64, distributed=True)
    assert {shape[1:3] for shape in spreads(found)} == {(1, 1), (1, 2)}


def test_a_script_that_is_not_told_both_batches_takes_its_share_at_once() -> None:
    job = replace(GPT, command=("python", "t.py", "{micro_batch}"))
    found, _ = trials(job, offers(4), 64, distributed=True)
    assert {t.knobs.accumulation for t in found} == {1}
    assert (4, 2, 2, 64, 1) in spreads(found)


def test_where_nothing_fits_parallel_is_named() -> None:
    job = replace(GPT, tensor_parallel=(4,))
    with pytest.raises(UsageError) as caught:
        trials(job, offers(1, 2), 64, distributed=True)
    assert "a replica needs 4 workers, and the places offer 1, 2" in caught.value.text
    assert "[parallel]" in (caught.value.hint or "")
    assert "slots" in (caught.value.hint or "")


def test_where_no_batch_multiplies_the_worker_counts_are_named() -> None:
    with pytest.raises(UsageError, match=r"global batch of 33: no worker count \(2, 4\)"):
        trials(replace(JOB, worker_counts=(2, 4)), offers(1, 2, 4), 33, distributed=True)


def test_every_way_to_spread_a_replica_is_tried_once_after_the_usual_probes() -> None:
    found, _ = trials(GPT, offers(1, 2, 4), 64, distributed=True)
    tried = [
        (t.resources.workers, t.knobs.tensor_parallel, t.knobs.pipeline_parallel)
        for t in design(found)
    ]
    assert tried[:4] == [(1, 1, 1), (4, 1, 1), (1, 1, 1), (2, 1, 1)]
    assert sorted(tried[4:7]) == [(2, 1, 2), (2, 2, 1), (4, 2, 2)]


def test_the_probe_that_asks_for_the_batch_holds_a_whole_replica() -> None:
    model = LanguageModel(hidden=64, layers=4, heads=4, sequence=64, vocabulary=256)
    job = replace(JOB, tier=0, model=model, tensor_parallel=(2,), global_batch=None)
    trial = batch_unknown(job, offers(1, 2, 4))
    assert (trial.resources.workers, trial.knobs.tensor_parallel) == (2, 2)
    with pytest.raises(UsageError, match="whole number of replicas"):
        batch_unknown(job, offers(1, 3))
