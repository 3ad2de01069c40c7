"""The tasks: which measurements of a job a method is given, and which it must predict.

=====  ===================================================================================
task   given, and asked
=====  ===================================================================================
A1     3 probes (1 GPU at the lowest and the highest batch, 2 GPUs of one node); the other
       placements on one node
A2     6 probes (those of A1; 2 nodes with 1 GPU each at both batches; 4 GPUs of one node);
       every other placement
A3     9 probes (those of A2; 4 GPUs of one node at the highest batch; 8 GPUs of 2 nodes at
       both); placements of more than 8 GPUs
B1     the job on one GPU type, and other jobs on both types, on one GPU each; the job on the
       other type. Also with one probe there, at the middle of the batches. Each data set (image
       size) is asked by itself; a job that is judged is a model on a pair of types over all of them
C1     the smallest system of a family in MLPerf; the time to train on its larger ones
E1     language models on at most 8 GPUs, of other architectures; this architecture there.
       Also from models of other hidden sizes alone
E2     3 probes of a language model at the fewest of its 64 to 512 GPUs; the rest of those
E3     the same from training rows alone
=====  ===================================================================================

Nobody sees more than this and the training rows, from which everything of the judged job's model
(or GPU type) is taken out first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from predictors.evaluate.data import LLM_COLUMNS, LlmJob, Measurements, StepJob, Submission, Table
from predictors.features import take

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

HoldOut = Literal["model", "gpu"]
TASKS: tuple[str, ...] = ("A1", "A2", "A3", "B1", "C1", "E1", "E2", "E3")
_ALIASES = {"cifar10": "resnet18", "resnet-18": "resnet18"}
"""The same model under the names of different publications."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a method is given of one judged job.

    Attributes:
        task: One of `TASKS`.
        job: Its name.
        gpu: GPU type that is asked for.
        dataset: What is trained on, for B1; the image size of some jobs is part of its name.
        benchmark: What is trained, for C1.
        probes: Rows of this job that were tried; the columns depend on the task. For B1
            `on_target` tells probes of the asked GPU type from those of the other.
        probe_s: Their times, s.
        probe_sync_s: Of these, the wait for gradients, s; only Pollux's peer looks at it.
        asked: Rows to predict, with the columns of `probes`.
        training: What other jobs showed.
        probe_gpu: GPU type of the probes; another one than `gpu` only in B1.
    """

    task: str
    job: str
    gpu: str
    probes: Table
    probe_s: Array
    asked: Table
    training: Measurements
    probe_gpu: str = ""
    dataset: str = ""
    benchmark: str = ""
    probe_sync_s: Array = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A question and its answer, which only the judge sees.

    Attributes:
        question: What methods are given.
        true_s: Measured times of the asked rows, s.
        splits: Names of subsets, and which asked rows belong to each.
    """

    question: Question
    true_s: Array
    splits: Mapping[str, Mask]


def cases(
    task: str, judged: Measurements, training: Measurements, hold_out: HoldOut = "model"
) -> Iterator[Case]:
    """Every case that the judged measurements allow for a task.

    Args:
        task: One of `TASKS`.
        judged: Measurements to judge on.
        training: Measurements to learn from; may be the same, as what belongs to a judged job is
            taken out.
        hold_out: Take out all of the judged job's model, or all of its GPU type as well.
    """
    if task in _PLACEMENTS:
        for job in judged.steps:
            yield from _step_cases(task, job, training, hold_out)
    elif task == "B1":
        yield from _transfer_cases(judged, training, hold_out)
    elif task == "C1":
        yield from _family_cases(judged.submissions, training)
    else:
        for llm in judged.llm:
            yield from _llm_cases(task, llm, training)


# ---- A: other placements -------------------------------------------------------------------

Wanted = tuple[int, int, Literal["low", "high"]]
_A1: tuple[Wanted, ...] = ((1, 1, "low"), (1, 1, "high"), (2, 1, "low"))
_A2: tuple[Wanted, ...] = (*_A1, (2, 2, "low"), (2, 2, "high"), (4, 1, "low"))
_A3: tuple[Wanted, ...] = (*_A2, (4, 1, "high"), (8, 2, "low"), (8, 2, "high"))
_PLACEMENTS = {"A1": _A1, "A2": _A2, "A3": _A3}
"""Probes by (GPUs, nodes, batch)."""


def model_of(name: str) -> str:
    """A model's name as it is compared between publications."""
    lower = name.lower()
    return _ALIASES.get(lower, lower.replace("-", ""))


def others(training: Measurements, job: StepJob, hold_out: HoldOut) -> Measurements:
    """The training measurements without the judged model, and if asked, without its GPU type."""
    kept = tuple(
        other
        for other in training.steps
        if model_of(other.model) != model_of(job.model)
        and (hold_out == "model" or other.gpu != job.gpu)
    )
    return Measurements(steps=kept, llm=training.llm, submissions=training.submissions)


def _step_cases(
    task: str, job: StepJob, training: Measurements, hold_out: HoldOut
) -> Iterator[Case]:
    probes = _pick(job.columns, _PLACEMENTS[task])
    if probes is None:
        return
    c = job.columns
    asked = _unlike(c, probes)
    if task == "A1":
        asked &= c["nodes"] == 1
    elif not np.any(c["nodes"] > 1):
        return
    if task == "A3":
        asked &= c["workers"] > 8
    rows = np.flatnonzero(asked)
    if not len(rows):
        return
    learned = others(training, job, hold_out)
    seen = any(o.gpu == job.gpu and o.columns["workers"].max() > 1 for o in learned.steps)
    workers = c["workers"][rows]
    yield Case(
        question=Question(
            task=task,
            job=job.name,
            gpu=job.gpu,
            probe_gpu=job.gpu,
            probes=take(c, probes),
            probe_s=job.step_s[probes],
            probe_sync_s=job.sync_s[probes],
            asked=take(c, rows),
            training=learned,
        ),
        true_s=job.step_s[rows],
        splits={
            "all": np.ones(len(rows), bool),
            "new_models_seen_gpu": np.full(len(rows), seen),
            "unseen_gpu": np.full(len(rows), not seen),
            "over_16_gpus": workers > 16,
        },
    )


def _pick(columns: Table, wanted: Iterable[Wanted]) -> NDArray[np.intp] | None:
    """Rows of the wanted probes; None where the job was not measured there."""
    rows: list[int] = []
    for workers, nodes, batch in wanted:
        here = np.flatnonzero((columns["workers"] == workers) & (columns["nodes"] == nodes))
        if not len(here):
            return None
        order = here[np.argsort(columns["micro_batch"][here], kind="stable")]
        rows.append(int(order[0] if batch == "low" else order[-1]))
    return np.asarray(rows)


def _unlike(columns: Table, probes: NDArray[np.intp]) -> Mask:
    """Rows with another configuration than each probe's: repeats of a probe are not asked for."""
    names = ("workers", "nodes", "workers_per_node", "micro_batch")
    keys = np.stack([columns[name] for name in names], axis=1)
    alike: Mask = (keys[:, None, :] == keys[None, probes, :]).all(axis=2).any(axis=1)
    return ~alike


# ---- B: another GPU type -------------------------------------------------------------------


def _transfer_cases(
    judged: Measurements, training: Measurements, hold_out: HoldOut
) -> Iterator[Case]:
    alone = [job for job in judged.steps if np.any(job.columns["workers"] == 1)]
    for here in alone:
        for there in alone:
            same = (here.source, here.model, here.dataset, here.precision) == (
                there.source,
                there.model,
                there.dataset,
                there.precision,
            )
            if same and here.gpu != there.gpu:
                learned = others(training, there, hold_out)
                for probes in (0, 1):
                    yield from _transfer_case(here, there, learned, target_probes=probes)


def _transfer_case(
    here: StepJob, there: StepJob, training: Measurements, *, target_probes: int
) -> Iterator[Case]:
    near, far = (np.flatnonzero(job.columns["workers"] == 1) for job in (here, there))
    known = _both(training, here.gpu, there.gpu)
    if not target_probes and not known:
        return  # nothing at all is known of the asked GPU type
    order = far[np.argsort(there.columns["micro_batch"][far], kind="stable")]
    probes, asked = np.zeros(0, np.intp), order
    if target_probes:
        probes = order[[len(order) // 2]]
        asked = order[_unlike(there.columns, probes)[order]]
    if not len(asked):
        return
    given = {
        name: np.concatenate([here.columns[name][near], there.columns[name][probes]])
        for name in here.columns
    }
    given["on_target"] = np.concatenate([np.zeros(len(near)), np.ones(len(probes))])
    yield Case(
        question=Question(
            task="B1",
            job=f"{here.source}/{here.model}/{here.gpu}->{there.gpu}",
            gpu=there.gpu,
            probe_gpu=here.gpu,
            dataset=here.dataset,
            probes=given,
            probe_s=np.concatenate([here.step_s[near], there.step_s[probes]]),
            asked={**take(there.columns, asked), "on_target": np.ones(len(asked))},
            training=training,
        ),
        true_s=there.step_s[asked],
        splits={
            "no_target_probe": np.full(len(asked), not target_probes),
            "one_target_probe": np.full(len(asked), bool(target_probes)),
            "unseen_gpu": np.full(len(asked), not known),
        },
    )


def _both(training: Measurements, one: str, two: str) -> bool:
    """Whether some job was measured on both GPU types."""
    on: dict[tuple[str, str, str], set[str]] = {}
    for job in training.steps:
        on.setdefault((job.source, job.model, job.dataset), set()).add(job.gpu)
    return any({one, two} <= gpus for gpus in on.values())


# ---- C: larger systems of a family ---------------------------------------------------------


def _family_cases(judged: tuple[Submission, ...], training: Measurements) -> Iterator[Case]:
    families: dict[tuple[str, ...], list[Submission]] = {}
    for system in judged:
        families.setdefault(system.family, []).append(system)
    for family, systems in families.items():
        least = min(system.gpus for system in systems)
        small = [system for system in systems if system.gpus == least]
        large = [system for system in systems if system.gpus > least]
        if not large:
            continue
        rest = tuple(s for s in training.submissions if s.family != family)
        yield Case(
            question=Question(
                task="C1",
                job="/".join(family),
                gpu=small[0].gpu,
                benchmark=small[0].benchmark,
                probes=_system_table(small),
                probe_s=np.asarray([60 * s.minutes for s in small]),
                asked=_system_table(large),
                training=Measurements(steps=training.steps, llm=training.llm, submissions=rest),
            ),
            true_s=np.asarray([60 * s.minutes for s in large]),
            splits={
                "all": np.ones(len(large), bool),
                "over_16_gpus": np.asarray([s.gpus > 16 for s in large]),
            },
        )


def _system_table(systems: Iterable[Submission]) -> Table:
    """`gpus`, `nodes`, `global_batch`: what is decided before a run. Its epochs are not."""
    rows = np.asarray([(s.gpus, s.nodes, s.global_batch) for s in systems])
    return {name: rows[:, i] for i, name in enumerate(("gpus", "nodes", "global_batch"))}


# ---- E: language models --------------------------------------------------------------------


def _llm_cases(task: str, job: LlmJob, training: Measurements) -> Iterator[Case]:
    c = job.columns
    small = task == "E1"
    rows = np.flatnonzero(c["num_gpus"] <= 8 if small else c["num_gpus"] >= 64)
    probes = np.zeros(0, np.intp)
    if task == "E2":
        probes = _cheapest(c, rows, 3)
        rows = np.setdiff1d(rows, probes)
    if not len(rows):
        return
    # Iterations at other sizes of the judged architecture would give it away in E1; what is
    # asked of larger clusters may rest on any measurement within a node.
    rest = {"all": tuple(o for o in training.llm if o.architecture != job.architecture)}
    if small:
        hidden = job.architecture[0]
        rest["new_hidden_size"] = tuple(o for o in rest["all"] if o.architecture[0] != hidden)
    for split, learned in rest.items():
        yield Case(
            question=Question(
                task=task,
                job=job.name,
                gpu=job.gpu,
                probe_gpu=job.gpu,
                probes=take(c, probes),
                probe_s=job.iteration_s[probes],
                asked={name: c[name][rows] for name in LLM_COLUMNS},
                training=Measurements(steps=training.steps, llm=learned),
            ),
            true_s=job.iteration_s[rows],
            splits={split: np.ones(len(rows), bool)},
        )


def _cheapest(columns: Table, rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Rows at the fewest GPUs, each with another parallelism while there is one."""
    names = ("num_gpus", "tp", "pp", "dp", "micro_batch_size", "global_batch_size")
    order = rows[np.lexsort([columns[name][rows] for name in reversed(names)])]
    seen: set[tuple[float, ...]] = set()
    first: list[int] = []
    again: list[int] = []
    for row in order:
        shape = tuple(float(columns[name][row]) for name in ("tp", "pp", "dp"))
        (again if shape in seen else first).append(int(row))
        seen.add(shape)
    return np.asarray([*first, *again][:count], dtype=np.intp)
