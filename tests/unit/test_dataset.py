"""What a data set holds, and every way in which it can be unfit."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from planner.core.errors import DataError, ExitCode
from planner.services.estimating import dataset
from planner.services.estimating.dataset import scan_data
from planner.services.estimating.imagecheck import damage


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


PNG = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0\0"))
    + chunk(b"IEND", b"")
)
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 40 + b"\xff\xd9"
GIF = b"GIF89a" + b"\0" * 20 + b";"
BMP = b"BM" + struct.pack("<I", 60) + b"\0" * 54
WEBP = b"RIFF" + struct.pack("<I", 52) + b"WEBP" + b"\0" * 48


def image_folder(root: Path, splits: Iterable[str], classes: str = "ab", each: int = 3) -> Path:
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(each):
                (folder / f"{i}.png").write_bytes(PNG)
    return root


# ---- layouts


def test_classes_straight_under_the_root(tmp_path: Path) -> None:
    stats = scan_data(str(image_folder(tmp_path, [""], "abc", 4)))
    assert stats.kind == "imagefolder"
    assert stats.train_samples == 12
    assert stats.tail_samples == 0
    assert stats.files == stats.checked == 12
    assert stats.size_bytes == 12 * len(PNG)


def test_splits_are_counted_apart(tmp_path: Path) -> None:
    image_folder(tmp_path, ["train"], each=5)
    image_folder(tmp_path, ["val", "test"], each=2)
    stats = scan_data(str(tmp_path))
    assert [(s.name, s.training, s.samples) for s in stats.splits] == [
        ("test", False, 4),
        ("train", True, 10),
        ("val", False, 4),
    ]
    assert (stats.train_samples, stats.tail_samples) == (10, 8)


def test_images_in_folders_within_a_class_belong_to_the_class(tmp_path: Path) -> None:
    image_folder(tmp_path, [""])
    (tmp_path / "a" / "more").mkdir()
    (tmp_path / "a" / "more" / "x.png").write_bytes(PNG)
    assert scan_data(str(tmp_path)).train_samples == 7


def test_a_label_file_beside_the_images_makes_it_files(tmp_path: Path) -> None:
    image_folder(tmp_path, [""])
    (tmp_path / "labels.csv").write_text("a,b\n")
    stats = scan_data(str(tmp_path))
    assert stats.kind == "files"
    assert stats.train_samples is None


def test_a_single_file_is_opaque(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x" * 10)
    stats = scan_data(str(tmp_path / "data.bin"))
    assert (stats.kind, stats.files, stats.size_bytes) == ("opaque", 1, 10)


def test_no_data_set_is_opaque() -> None:
    assert scan_data(None).kind == "opaque"


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    image_folder(tmp_path, [""])
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a" / ".thumb.png").write_bytes(b"")
    assert scan_data(str(tmp_path)).files == 6


def test_a_link_to_a_folder_above_does_not_go_round_for_ever(tmp_path: Path) -> None:
    image_folder(tmp_path, [""])
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert scan_data(str(tmp_path)).files == 6


# ---- fingerprint


def test_a_copy_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    one = image_folder(tmp_path / "one", [""])
    shutil.copytree(one, tmp_path / "two")
    assert scan_data(str(one)).fingerprint == scan_data(str(tmp_path / "two")).fingerprint


@pytest.mark.parametrize("change", ["grow", "rename", "add", "remove"])
def test_any_change_of_names_or_sizes_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    image_folder(tmp_path, [""])
    before = scan_data(str(tmp_path)).fingerprint
    first = tmp_path / "a" / "0.png"
    if change == "grow":
        first.write_bytes(PNG + b"\0")
    elif change == "rename":
        first.rename(tmp_path / "a" / "9.png")
    elif change == "add":
        (tmp_path / "b" / "9.png").write_bytes(PNG)
    else:
        first.unlink()
    assert scan_data(str(tmp_path)).fingerprint != before


# ---- faults


def refused(path: Path, *words: str) -> DataError:
    with pytest.raises(DataError) as caught:
        scan_data(str(path))
    for word in words:
        assert word in caught.value.text
    assert caught.value.hint
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", str(tmp_path / "nowhere"), "does not exist")


@pytest.mark.parametrize("folders", [(), ("train/a", "train/b")])
def test_a_data_set_without_any_file_is_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    refused(tmp_path, str(tmp_path), "empty")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.bin").touch()
    refused(tmp_path / "data.bin", "data.bin", "empty")


@pytest.mark.parametrize("split", ["", "train"])
def test_one_class_only_is_refused(tmp_path: Path, split: str) -> None:
    image_folder(tmp_path, [split], classes="a")
    refused(tmp_path, "one class only", "(a)")


@pytest.mark.parametrize("split", ["", "train", "val"])
def test_an_empty_class_is_named(tmp_path: Path, split: str) -> None:
    image_folder(tmp_path, ["train", "val"] if split else [""])
    (tmp_path / split / "zebra").mkdir()
    refused(tmp_path, str(tmp_path / split / "zebra"), "no images")


def test_a_link_to_nothing_is_unreadable(tmp_path: Path) -> None:
    image_folder(tmp_path, [""])
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    refused(tmp_path, "gone.png", "cannot be read")


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, whom no mode keeps out.
    image_folder(tmp_path, [""])
    listed = dataset.os.scandir

    def forbidden(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(dataset.os, "scandir", forbidden)
    refused(tmp_path, str(tmp_path / "b"), "Permission denied")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty (0 bytes)"),
        (PNG[:-12], "PNG that is cut off"),
        (JPEG[:-2], "JPEG that is cut off"),
        (b"<html>404</html>", "no image"),
    ],
)
def test_a_damaged_image_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    image_folder(tmp_path, ["train", "val"])
    (tmp_path / "val" / "b" / "bad.png").write_bytes(content)
    error = refused(tmp_path, str(tmp_path / "val" / "b" / "bad.png"), words)
    assert error.code == "usage.data.corrupt"


def test_of_many_images_a_seeded_sample_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path, [""], each=50)
    monkeypatch.setattr(dataset, "CHECK_LIMIT", 10)
    assert scan_data(str(tmp_path)).checked == 10
    (tmp_path / "a" / "7.png").write_bytes(b"broken")

    def found(seed: int) -> bool:
        try:
            scan_data(str(tmp_path), seed=seed)
        except DataError:
            return True
        return False

    answers = [found(seed) for seed in range(60)]
    assert answers == [found(seed) for seed in range(60)]
    assert 0 < sum(answers) < 30


def test_an_empty_image_is_found_even_outside_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path, [""], each=50)
    monkeypatch.setattr(dataset, "CHECK_LIMIT", 1)
    (tmp_path / "a" / "7.png").write_bytes(b"")
    refused(tmp_path, "7.png", "0 bytes")


# ---- formats


@pytest.mark.parametrize("whole", [PNG, JPEG, GIF, BMP, WEBP])
def test_whole_images_pass_whatever_their_suffix(tmp_path: Path, whole: bytes) -> None:
    for name in ("x.png", "x.jpg"):
        path = tmp_path / name
        path.write_bytes(whole)
        assert damage(str(path), len(whole)) is None


@pytest.mark.parametrize("whole", [PNG, JPEG, GIF, BMP, WEBP])
def test_truncated_images_are_told(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(whole[: len(whole) // 2])
    assert damage(str(path), len(whole) // 2)


def test_metadata_behind_the_end_marker_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(JPEG + b"camera maker's notes")
    assert damage(str(path), path.stat().st_size) is None
