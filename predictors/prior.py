"""What is known of a job's step law before it is probed.

A prior is a normal distribution of the law's log-parameters (`step_law.PARAMETERS`). Where nothing
was measured it is centred on physics (`physics`). From other jobs it is learned in three levels:
jobs differ on one cluster, clusters (told apart by their GPU type) differ from each other, and a
cluster that was never seen is drawn from what they have in common (`predictors.pooling`). So what
belongs to a cluster, as how synchronisation grows over its nodes, is known well where it was seen,
and is left open elsewhere.

The one learned from published measurements is kept beside this module as plain JSON, and made by
`python -m predictors.prior --data DIR --out FILE`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predictors.gpus import type_of
from predictors.misfit import unknown_range
from predictors.residual import ResidualModel
from predictors.step_law import PARAMETERS

if TYPE_CHECKING:
    from planner.core.distribution import Array
    from predictors.features import Table

BUNDLED = Path(__file__).parent / "data" / "step_prior.json"
"""Learned from published measurements."""


_BEYOND, _BEYOND_SIGMA = 1.0, 4.0
"""Octaves from a single probed micro-batch to the largest of the job: mean, standard deviation.
Chosen on published jobs, known to the shipped prior, of which one small batch was probed; the mean
is low for those of a large one."""
_TOGETHER = 0.5
"""Share of that variance in which parameters go together; jobs differ in each as well."""
_BY_BATCH: Mapping[str, float] = {
    "fixed": 2 / 3,
    "sync_local": 2 / 3,
    "sync_remote": 2 / 3,
    "per_sample": -1 / 3,
    "load": -1 / 3,
}
"""Exponents with which parameters go by how much smaller the unit's micro-batch is: apart by 1, and
with the typical shares of `fixed` and `per_sample` about 1 together from 0 to 4 octaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What physics says of one parameter.

    Attributes:
        gpu: Median on GPUs, relative to the step's scale where it is a time.
        cpu: Median on CPU slots.
        job: Standard deviation of its logarithm between jobs of one cluster.
        cluster: The same between clusters.
    """

    gpu: float
    cpu: float
    job: float
    cluster: float


GUESSES: Mapping[str, Guess] = {
    "fixed": Guess(gpu=0.1, cpu=0.1, job=1.3, cluster=0.3),
    "per_sample": Guess(gpu=0.75, cpu=0.8, job=0.5, cluster=0.2),
    "contention": Guess(gpu=0.05, cpu=0.25, job=0.8, cluster=0.3),
    "load": Guess(gpu=0.05, cpu=0.03, job=1.2, cluster=0.3),
    "sharing": Guess(gpu=0.1, cpu=0.1, job=0.8, cluster=0.7),
    "sync_local": Guess(gpu=0.06, cpu=0.05, job=1.2, cluster=0.3),
    "local_growth": Guess(gpu=1.0, cpu=0.6, job=0.25, cluster=0.25),
    "sync_remote": Guess(gpu=0.3, cpu=0.2, job=1.2, cluster=0.3),
    "growth": Guess(gpu=0.37, cpu=0.37, job=0.2, cluster=0.3),
    "latency": Guess(gpu=0.003, cpu=0.001, job=0.4, cluster=1.0),
    "pair": Guess(gpu=0.5, cpu=0.5, job=0.4, cluster=0.7),
    "beyond": Guess(gpu=1.0, cpu=1.0, job=0.1, cluster=0.15),
    "crowd": Guess(gpu=0.1, cpu=0.1, job=0.3, cluster=0.5),
    "overlap": Guess(gpu=1.0, cpu=0.1, job=0.5, cluster=0.4),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepPrior:
    """A normal distribution of log-parameters.

    Attributes:
        mean: Shape (parameters,), in the order of `PARAMETERS`.
        covariance: Shape (parameters, parameters), positive definite.
        width: Factor on the standard deviation of the log step time on one node, from jobs that
            were held out.
        width_across: The same on several nodes.
    """

    mean: Array
    covariance: Array
    width: float = 1.0
    width_across: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "width": self.width,
            "width_across": self.width_across,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StepPrior:
        """What `to_json` gave.

        Raises:
            ValueError: It is of other parameters.
        """
        mean = np.asarray(data["mean"], dtype=float)
        covariance = np.asarray(data["covariance"], dtype=float)
        count = len(PARAMETERS)
        if mean.shape != (count,) or covariance.shape != (count, count):
            raise ValueError(f"not a prior of {count} parameters: shape {mean.shape}")
        return cls(
            mean=mean,
            covariance=covariance,
            width=float(data["width"]),
            width_across=float(data["width_across"]),
        )


def physics(*, on_cpu: bool = False) -> StepPrior:
    """The prior where nothing was learned."""
    guesses = [GUESSES[name] for name in PARAMETERS]
    median = [guess.cpu if on_cpu else guess.gpu for guess in guesses]
    variance = [guess.job**2 + guess.cluster**2 for guess in guesses]
    return StepPrior(mean=np.log(np.asarray(median)), covariance=np.diag(variance))


def opened(prior: StepPrior, columns: Table) -> StepPrior:
    """The prior of a job of whose range of micro-batches the fitted rows show but a part.

    Priors are shares of a step at the largest micro-batch of a full range. Where that is 2^d times
    the largest one probed, what a pass and its gradients cost whatever its samples is 2^d times
    as much against what samples cost. How large d is nobody knows of a job probed at one batch. It
    is believed to be `_BEYOND` octaves on the mean, with a standard deviation of `_BEYOND_SIGMA`;
    both shrink with what is unknown of the range (`misfit.unknown_range`).
    """
    unknown = unknown_range(columns)
    along = np.log(2) * np.asarray([_BY_BATCH.get(name, 0.0) for name in PARAMETERS])
    return replace(
        prior,
        mean=prior.mean + unknown * _BEYOND * along,
        covariance=prior.covariance
        + (unknown * _BEYOND_SIGMA) ** 2
        * (_TOGETHER * np.outer(along, along) + (1 - _TOGETHER) * np.diag(along**2)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorSet:
    """What other jobs taught.

    Attributes:
        unseen: For a GPU type on which no job was measured.
        seen: By GPU type (`gpus.type_of`).
        residual: What the law misses in the same way in all of them; None when nothing.
    """

    unseen: StepPrior
    seen: Mapping[str, StepPrior] = field(default_factory=dict)
    residual: ResidualModel | None = None

    def of(self, gpu: str | None) -> StepPrior:
        """The prior for a job on a GPU type; on CPU slots (None) that of physics."""
        if gpu is None:
            return physics(on_cpu=True)
        return self.seen.get(type_of(gpu), self.unseen)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "step_prior/1",
            "parameters": list(PARAMETERS),
            "unseen": self.unseen.to_json(),
            "seen": {gpu: prior.to_json() for gpu, prior in self.seen.items()},
            "residual": self.residual.to_json() if self.residual else None,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PriorSet:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document, or of another law.
        """
        if data.get("kind") != "step_prior/1" or tuple(data["parameters"]) != PARAMETERS:
            raise ValueError(f"not a prior of this law: kind is {data.get('kind')!r}")
        learned = data["residual"]
        return cls(
            unseen=StepPrior.from_json(data["unseen"]),
            seen={gpu: StepPrior.from_json(prior) for gpu, prior in data["seen"].items()},
            residual=None if learned is None else ResidualModel.from_json(learned),
        )


@cache
def bundled() -> PriorSet:
    """The priors that are shipped, learned from published measurements."""
    return PriorSet.from_json(json.loads(BUNDLED.read_text(encoding="utf-8")))


def main(argv: Sequence[str] | None = None) -> int:
    """Learn the priors from a folder of measurements and keep them.

    Returns:
        Exit status: 0, or that of the error that is told.
    """
    from planner.core.errors import PlannerError
    from predictors.evaluate.data import read
    from predictors.evaluate.ours import measured_jobs
    from predictors.pooling import learn

    parser = argparse.ArgumentParser(prog="python -m predictors.prior", description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CSV files")
    parser.add_argument("--out", type=Path, default=BUNDLED, help="JSON file to write")
    args = parser.parse_args(argv)
    try:
        jobs = measured_jobs(read(args.data))
    except PlannerError as error:
        print(f"predictors.prior: {error}\n{error.hint or ''}".rstrip(), file=sys.stderr)
        return error.exit_code
    text = json.dumps(_rounded(learn(jobs).to_json()), allow_nan=False, separators=(",", ":"))
    args.out.write_text(text + "\n", encoding="utf-8")
    return 0


def _rounded(value: Any) -> Any:
    """Numbers to 6 digits, which is more than is known."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
