"""The command: `python -m predictors.evaluate --data DIR [--train DIR] --json`.

Tasks: A1, A2, A3 (a step on other placements, from 3, 6 and 9 trials), B1 (another GPU type), C1
(larger systems), E1, E2, E3 (language models). All of them take some minutes, most of which go into
fitting the peers anew for each judged job.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from planner.core.errors import PlannerError
from predictors.evaluate.data import Measurements, read
from predictors.evaluate.reliability import achieved, draw
from predictors.evaluate.scores import METHODS, Answer, Score, answers, scores
from predictors.evaluate.tasks import TASKS, cases

SCHEMA = "planner.predictor_eval/1"


def main(argv: Sequence[str] | None = None) -> int:
    """Judge every method and print the table.

    Returns:
        Exit status: 0, or that of the error that is told.
    """
    args = _parser().parse_args(argv)
    try:
        judged = read(args.data)
        training = read(args.train) if args.train else judged
        _tell_left_out(args.data, judged)
        if args.train:
            _tell_left_out(args.train, training)
        found: list[Answer] = []
        for task in args.task:
            print(f"{task} ...", file=sys.stderr, flush=True)
            found += answers(cases(task, judged, training, args.hold_out), args.method)
        rows = scores(found)
        if args.plot:
            draw(achieved(found), args.plot)
    except PlannerError as error:
        print(f"predictors.evaluate: {error}\n{error.hint or ''}".rstrip(), file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps({"schema": SCHEMA, "rows": [row.document() for row in rows]}, indent=1))
    else:
        _print(rows)
    return 0


def _tell_left_out(folder: Path, found: Measurements) -> None:
    if found.left_out:
        text = f"{folder}: {found.left_out} rows are left out: what they ran on is not known"
        print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m predictors.evaluate", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with CSV files to judge on"
    )
    parser.add_argument(
        "--train", type=Path, help="folder to learn from; without it, what is left of --data"
    )
    parser.add_argument("--task", type=_names(TASKS), default=TASKS, metavar=",".join(TASKS))
    parser.add_argument("--method", type=_names(METHODS), default=METHODS, metavar="METHOD,...")
    parser.add_argument(
        "--hold-out",
        choices=("model", "gpu"),
        default="model",
        help="learn from nothing of the judged model (default), or of its GPU type as well",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON document")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw predicted against achieved coverage"
    )
    return parser


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        wrong = [name for name in chosen if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return chosen

    return parse


def _print(rows: Sequence[Score]) -> None:
    titles = ("jobs", "n", "mape", "median", "p90", "inside", "worst", "halfwidth")
    print(f"{'task':5s} {'split':20s} {'method':17s} " + " ".join(f"{t:>9s}" for t in titles))
    for row in rows:
        numbers = (
            row.mape,
            row.median_ape,
            row.p90_ape,
            row.coverage90_mean,
            row.coverage90_worst,
            row.halfwidth90,
        )
        shown = " ".join(f"{'-' if v is None else f'{v:.1f}':>9s}" for v in numbers)
        print(f"{row.task:5s} {row.split:20s} {row.method:17s} {row.jobs:9d} {row.n:9d} {shown}")


if __name__ == "__main__":
    sys.exit(main())
