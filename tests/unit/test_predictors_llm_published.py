"""`LlmRegressor` against published iterations on up to 3,072 GPUs; it was fitted to none."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.publishedllm import PublishedJob, published, score

from predictors.llm import LlmRegressor, bundled
from predictors.llm_law import parameters

JOBS = published()
PROBED = {
    name: job
    for name, job in JOBS.items()
    if len(job.iteration_s) > 5 and len(set(job.columns["hidden_size"])) == 1
}


@cache
def bundled_for(network_gb_per_s: float) -> LlmRegressor:
    return bundled(network_gb_per_s=network_gb_per_s)


def model_for(job: PublishedJob) -> LlmRegressor:
    return bundled_for(job.network_gb_per_s)


@pytest.mark.parametrize("name", JOBS)
def test_every_row_has_a_source_and_a_plausible_time(name: str) -> None:
    job = JOBS[name]
    assert all(job.sources)
    c = job.columns
    useful = 6 * parameters(c) * c["global_batch_size"] * c["seq_len"] / c["num_gpus"]
    share = useful / job.iteration_s / 312e12
    assert np.all((share > 0.2) & (share < 0.6))


@pytest.mark.parametrize("name", JOBS)
def test_they_lie_inside_without_a_probe(name: str) -> None:
    job = JOBS[name]
    found = score(model_for(job), job, range(len(job.iteration_s)))
    assert found.inside == 1.0
    assert found.halfwidth < 0.5
    assert found.error < 0.22


def test_without_a_probe_a_network_that_nobody_tells_costs_little() -> None:
    errors = [score(bundled(), job, range(len(job.iteration_s))).error for job in JOBS.values()]
    assert np.mean(errors) < 0.15


@pytest.mark.parametrize("name", PROBED)
def test_three_probes_on_the_fewest_gpus_tell_of_the_rest(name: str) -> None:
    job = PROBED[name]
    probes = job.cheapest()
    rest = [row for row in range(len(job.iteration_s)) if row not in probes]
    before = model_for(job)
    after = before.adapt(job.rows(probes), job.iteration_s[probes])
    found = score(after, job, rest)
    assert found.error < 0.1
    assert found.inside >= 0.88
    assert found.halfwidth < 0.7 * score(before, job, rest).halfwidth
