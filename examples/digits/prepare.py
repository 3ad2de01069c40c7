"""Write scikit-learn's 1,797 handwritten digits as PNG files, the way ImageFolder reads them.

    data/{train,val,test}/{0..9}/<number>.png

The images are real (UCI's optical recognition of handwritten digits, 8 x 8 pixels) and come with
scikit-learn, so nothing is downloaded. Split 70/15/15, every class by itself, always the same way.
Running it again changes nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

SPLITS = {"train": 0.70, "val": 0.15, "test": 0.15}


def split_of_each(targets: list[int], seed: int = 0) -> list[str]:
    """Which split each image goes to: every class is shuffled and cut by itself."""
    chosen = [""] * len(targets)
    for digit in sorted(set(targets)):
        members = [i for i, target in enumerate(targets) if target == digit]
        random.Random(seed + digit).shuffle(members)  # noqa: S311 - no secret, just an order
        in_val = round(len(members) * SPLITS["val"])
        in_test = round(len(members) * SPLITS["test"])
        for place, i in enumerate(members):
            chosen[i] = "val" if place < in_val else "test" if place < in_val + in_test else "train"
    return chosen


def write_digits(root: Path) -> int:
    """Write the data set to `root`, unless it is there already; the number of images."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    targets = [int(target) for target in digits.target]
    if sum(1 for _ in root.glob("*/*/*.png")) == len(targets):
        return len(targets)
    beside = root.with_name(f".{root.name}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    for split in SPLITS:
        for digit in range(10):
            (beside / split / str(digit)).mkdir(parents=True)
    for i, split in enumerate(split_of_each(targets)):
        pixels = (digits.images[i] * (255 / 16)).round().astype("uint8")
        Image.fromarray(pixels).save(beside / split / str(targets[i]) / f"{i:04d}.png")
    shutil.rmtree(root, ignore_errors=True)
    beside.rename(root)  # whole or not at all
    return len(targets)


def main() -> None:
    """Prepare the data next to this file, or where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    out = parser.parse_args().out
    print(f"{write_digits(out)} images in {out}")


if __name__ == "__main__":
    main()
