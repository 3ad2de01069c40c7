"""Fit what comes with the package: `python -m predictors.evaluate.bundle --data DIR --out DIR`.

Writes `machines.json` and `scale_out.json` (see `predictors.bundled`): fitted numbers only, no
measurement. The evaluation never reads them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from predictors.evaluate import ours_other
from predictors.evaluate.data import read
from predictors.machines import MachineRegressor
from predictors.scale_out import ScaleOutRegressor


def main(argv: Sequence[str] | None = None) -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CSV files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args(argv)
    known = read(args.data)
    priors = {
        "machines": MachineRegressor(iterations=40).fit(*ours_other.pairs(known.steps)).to_prior(),
        "scale_out": ScaleOutRegressor(iterations=40)
        .fit(*ours_other.systems(known.submissions))
        .to_prior(),
    }
    for name, prior in priors.items():
        text = json.dumps(prior, indent=1, sort_keys=True) + "\n"
        (args.out / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
