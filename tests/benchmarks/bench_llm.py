"""How good predictions of language models are: with what was held out, and on published runs.

    python tests/benchmarks/bench_llm.py [--data PATH/TO/throughput]

Without `--data`, the bundled regressor predicts published iterations on up to 3,072 GPUs
(`tests/support/llm_published.csv`): blindly, and of jobs with more than five rows of one model the
others from three on the fewest GPUs. `mfu` is what the same share of the peak would give there.

With `--data`, the regressor is fitted anew to the measurements of a folder (as for
`predictors.evaluate`) without some rows, which are predicted: whole hidden sizes, depths, layouts,
the largest model, the largest micro-batches, the most GPUs, and some of these together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.publishedllm import PublishedJob, published, score

from planner.core.distribution import I05, I95
from predictors.evaluate.data import read
from predictors.llm import LlmRegressor, bundled
from predictors.llm_law import COLUMNS, parameters

Table = dict[str, np.ndarray]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with measurements")
    args = parser.parse_args(argv)
    if args.data is None:
        print_published()
    else:
        print_held_out(args.data)
    return 0


def print_published() -> None:
    print(f"{'job':22s} rows  blind  bias  inside  half | 3 probes   mfu  inside  half   (percent)")
    for name, job in published().items():
        model = bundled(network_gb_per_s=job.network_gb_per_s)
        every = range(len(job.iteration_s))
        s = score(model, job, every)
        line = f"{name:22s} {len(every):4d} {100 * s.error:6.1f} {100 * s.bias:5.1f}"
        line += f" {100 * s.inside:7.0f} {100 * s.halfwidth:5.0f} |"
        if len(every) > 5 and len(set(job.columns["hidden_size"])) == 1:
            probes = job.cheapest()
            rest = [row for row in every if row not in probes]
            s = score(model.adapt(job.rows(probes), job.iteration_s[probes]), job, rest)
            line += f" {100 * s.error:8.1f} {100 * same_share(job, probes, rest):5.1f}"
            line += f" {100 * s.inside:7.0f} {100 * s.halfwidth:5.0f}"
        print(line)


def same_share(job: PublishedJob, probes: list[int], rest: list[int]) -> float:
    """Mean error of the probes' share of the peak, as a geometric mean, on the others."""
    c = job.columns
    ideal = parameters(c) * c["global_batch_size"] * c["seq_len"] / c["num_gpus"]
    factor = np.exp(np.log(job.iteration_s[probes] / ideal[probes]).mean())
    return float(np.abs(factor * ideal[rest] / job.iteration_s[rest] - 1).mean())


def print_held_out(folder: Path) -> None:
    jobs = read(folder).llm
    X = {n: np.concatenate([job.columns[n] for job in jobs]) for n in COLUMNS}
    y = np.concatenate([job.iteration_s for job in jobs])
    model_of = np.concatenate([np.full(len(job.iteration_s), i) for i, job in enumerate(jobs)])
    print(f"{'held out':34s} rows  error  bias   p90  inside  worst model  half   (percent)")
    for name, asked, learned in hold_outs(X):
        if not asked.any() or not learned.any():
            continue
        model = LlmRegressor().fit({n: v[learned] for n, v in X.items()}, y[learned])
        rows, real = {n: v[asked] for n, v in X.items()}, y[asked]
        q, off = model.predict_distribution(rows), model.predict(rows) / real - 1
        inside = (q[:, I05] <= real) & (real <= q[:, I95])
        each = [inside[model_of[asked] == i].mean() for i in np.unique(model_of[asked])]
        half = np.log(q[:, I95] / q[:, I05]).mean() / 2
        print(
            f"{name:34s} {len(real):4d} {100 * np.abs(off).mean():6.2f} {100 * off.mean():5.1f}"
            f" {100 * np.quantile(np.abs(off), 0.9):5.1f} {100 * np.mean(each):7.1f}"
            f" {100 * min(each):12.1f} {100 * half:5.1f}",
            flush=True,
        )


def hold_outs(c: Table) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Names, rows that are asked for, and rows that are learned from."""
    for column in ("hidden_size", "num_layers"):
        for value in np.unique(c[column]):
            out = c[column] == value
            yield f"{column} {value:g}", out, ~out
    weights = parameters(c)
    largest = weights == weights.max()
    yield "largest model", largest, ~largest
    most = {n: c[n] == c[n].max() for n in ("tp", "pp", "micro_batch_size", "num_gpus")}
    for name, out in most.items():
        yield f"largest {name}", out, ~out
    for value in np.unique(c["hidden_size"]):
        wide = c["hidden_size"] == value
        for name in ("pp", "tp"):
            both = wide & most[name]
            yield f"hidden_size {value:g} and largest {name}", both, ~wide & ~most[name]
    for name in ("num_gpus", "tp"):
        yield f"largest model and {name}", largest & most[name], ~largest & ~most[name]
    for tp, pp in sorted(set(zip(c["tp"].tolist(), c["pp"].tolist(), strict=True))):
        out = (c["tp"] == tp) & (c["pp"] == pp)
        yield f"tp {tp:g}, pp {pp:g}", out, ~out


if __name__ == "__main__":
    sys.exit(main())
