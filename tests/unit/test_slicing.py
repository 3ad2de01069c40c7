"""Slices: stratified, deterministic, whole or absent, reused."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.core.errors import StoreError
from planner.services.estimating import slicing
from planner.services.estimating.dataset import Split, scan_data
from planner.services.estimating.slicing import TAIL_SAMPLES, choose, make_slice, shares

PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82"


def split(sizes: dict[str, int], name: str = "train", *, training: bool = True) -> Split:
    return Split(
        name=name,
        training=training,
        classes={c: tuple(f"{name}/{c}/{i}.png" for i in range(n)) for c, n in sizes.items()},
    )


def per_class(chosen: tuple[str, ...], name: str = "train") -> Counter[str]:
    return Counter(path.split("/")[1] for path in chosen if path.startswith(name + "/"))


sizes_of_classes = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 60), min_size=2, max_size=12
)


# ---- shares


@given(sizes_of_classes, st.integers(0, 800), st.integers(0, 3))
def test_shares_fit_their_classes_and_their_sum(
    sizes: dict[str, int], count: int, least: int
) -> None:
    given_ = shares(sizes, count, least)
    assert set(given_) == set(sizes)
    for name, size in sizes.items():
        assert min(size, least) <= given_[name] <= size
    floor = sum(min(size, least) for size in sizes.values())
    assert sum(given_.values()) == max(min(count, sum(sizes.values())), floor)


@given(sizes_of_classes, st.integers(0, 800))
def test_shares_are_in_proportion_to_within_one(sizes: dict[str, int], count: int) -> None:
    count = min(count, sum(sizes.values()))
    for name, got in shares(sizes, count, 0).items():
        assert abs(got - count * sizes[name] / sum(sizes.values())) < 1


# ---- choosing


@given(sizes_of_classes, st.floats(0.01, 1.0), st.integers(1, 32), st.integers(0, 5))
def test_a_slice_is_stratified_and_deterministic(
    sizes: dict[str, int], fraction: float, batch: int, seed: int
) -> None:
    whole = split(sizes)
    chosen = choose([whole], fraction=fraction, global_batch=batch, seed=seed)
    assert chosen == choose([whole], fraction=fraction, global_batch=batch, seed=seed)
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) >= min(whole.samples, 2 * batch)
    assert len(chosen) >= fraction * whole.samples - 1e-9
    counts = per_class(chosen)
    for name, size in sizes.items():
        assert counts[name] >= min(size, 2)


@given(sizes_of_classes, st.floats(0.01, 1.0), st.integers(1, 32))
def test_every_step_of_a_probe_is_a_full_one(
    sizes: dict[str, int], fraction: float, batch: int
) -> None:
    whole = split(sizes)
    kept = len(choose([whole], fraction=fraction, global_batch=batch, seed=0))
    assert kept % batch == 0 or kept == whole.samples


def test_another_seed_takes_other_images() -> None:
    whole = split({"a": 200, "b": 200})
    slices = {choose([whole], fraction=0.1, global_batch=8, seed=s) for s in range(5)}
    assert len(slices) == 5


def test_one_more_class_does_not_reshuffle_the_others() -> None:
    few = split({"a": 100, "b": 100})
    more = split({"a": 100, "b": 100, "c": 100})
    of_a = [
        {p for p in choose([s], fraction=0.1, global_batch=1, seed=0) if "/a/" in p}
        for s in (few, more)
    ]
    assert of_a[0] == of_a[1]


def test_other_splits_keep_the_same_fraction_of_each() -> None:
    val = split({"a": 1500, "b": 1500}, "val", training=False)
    test = split({"a": 300, "b": 300}, "test", training=False)
    chosen = choose([split({"a": 50, "b": 50}), val, test], fraction=1.0, global_batch=1, seed=0)
    kept_val, kept_test = (
        sum(per_class(chosen, "val").values()),
        sum(per_class(chosen, "test").values()),
    )
    assert kept_val == TAIL_SAMPLES
    assert kept_test == pytest.approx(600 * TAIL_SAMPLES / 3000, abs=1)


def test_small_other_splits_are_kept_whole() -> None:
    val = split({"a": 180, "b": 181}, "val", training=False)
    chosen = choose([split({"a": 500, "b": 500}), val], fraction=0.1, global_batch=8, seed=0)
    assert sum(per_class(chosen, "val").values()) == 361


# ---- on the disk


def image_folder(root: Path, sizes: dict[str, int]) -> Path:
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(PNG)
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    sizes = {"train/a": 60, "train/b": 40, "val/a": 6, "val/b": 4}
    return image_folder(tmp_path / "data", sizes)


def test_a_slice_is_a_data_set_of_the_same_layout(data: Path, tmp_path: Path) -> None:
    made = make_slice(scan_data(str(data)), tmp_path / "s", fraction=0.2, global_batch=10)
    assert made.path is not None
    assert (made.fraction, made.train_samples, made.tail_samples) == (0.2, 20, 10)
    again = scan_data(made.path)
    assert [(s.name, {c: len(f) for c, f in s.classes.items()}) for s in again.splits] == [
        ("train", {"a": 12, "b": 8}),
        ("val", {"a": 6, "b": 4}),
    ]
    links = [p for p in Path(made.path).rglob("*.png")]
    assert all(p.is_symlink() and p.read_bytes() == PNG for p in links)


def test_a_slice_is_reused(data: Path, tmp_path: Path) -> None:
    stats = scan_data(str(data))
    first = make_slice(stats, tmp_path / "s", fraction=0.2, global_batch=10)
    assert first.path is not None
    made = os.stat(first.path).st_ino
    assert make_slice(stats, tmp_path / "s", fraction=0.2, global_batch=10) == first
    assert os.stat(first.path).st_ino == made
    assert len(list((tmp_path / "s").iterdir())) == 1


def test_a_slice_is_not_taken_for_one_of_another_copy(data: Path, tmp_path: Path) -> None:
    image_folder(tmp_path / "copy", {"train/a": 60, "train/b": 40, "val/a": 6, "val/b": 4})
    slices = [
        make_slice(scan_data(str(root)), tmp_path / "s", fraction=0.2, global_batch=10).path
        for root in (data, tmp_path / "copy")
    ]
    assert slices[0] != slices[1]


def test_small_data_is_taken_whole(data: Path, tmp_path: Path) -> None:
    made = make_slice(scan_data(str(data)), tmp_path / "s", fraction=0.2, global_batch=64)
    assert (made.path, made.fraction, made.train_samples) == (str(data), 1.0, 100)
    assert not (tmp_path / "s").exists()


def test_opaque_data_is_passed_on_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x")
    for path in (None, str(tmp_path / "data.bin")):
        made = make_slice(scan_data(path), tmp_path / "s", fraction=0.1, global_batch=8)
        assert (made.path, made.fraction, made.train_samples) == (path, 1.0, None)


def test_where_links_are_refused_images_are_copied(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(slicing.Path, "symlink_to", refused)
    made = make_slice(scan_data(str(data)), tmp_path / "s", fraction=0.2, global_batch=10)
    assert made.path is not None
    images = list(Path(made.path).rglob("*.png"))
    assert len(images) == 30
    assert not any(p.is_symlink() for p in images)


def test_a_slice_that_breaks_off_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def full_disk(self: Path, _target: str) -> None:
        made.append(self)
        if len(made) == 5:
            raise OSError(28, "No space left on device")
        self.touch()

    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slicing.Path, "symlink_to", full_disk)
    monkeypatch.setattr(slicing.shutil, "copyfile", refused)
    with pytest.raises(StoreError, match="No space left"):
        make_slice(scan_data(str(data)), tmp_path / "s", fraction=0.2, global_batch=10)
    assert list((tmp_path / "s").iterdir()) == []


def test_slices_cannot_be_written_under_a_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("in the way")
    with pytest.raises(StoreError, match="slice"):
        make_slice(scan_data(str(data)), tmp_path / "s", fraction=0.2, global_batch=10)
