"""Measuring workers from outside, with and without NVML."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

from runners import metrics
from runners.keeper import start_ticks
from runners.metrics import Gpu, Nvml, TreeMeter, visible
from runners.processes import ProcessId


class NVMLError(Exception):
    """As pynvml's."""


class FakePynvml(types.ModuleType):
    """Two GPUs; `refuse` names calls that answer with an error."""

    NVMLError = NVMLError

    def __init__(self, *refuse: str) -> None:
        super().__init__("pynvml")
        self.refuse = refuse
        self.opened = 0

    def _may(self, call: str) -> None:
        if call in self.refuse:
            raise NVMLError(f"{call} is not supported")

    def nvmlInit(self) -> None:
        self._may("nvmlInit")
        self.opened += 1

    def nvmlDeviceGetCount(self) -> int:
        self._may("nvmlDeviceGetCount")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        self._may("nvmlDeviceGetHandleByUUID")
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA T4"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._may("nvmlDeviceGetMemoryInfo")
        return types.SimpleNamespace(total=16_000, used=4_000 + handle)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._may("nvmlDeviceGetUtilizationRates")
        return types.SimpleNamespace(gpu=87, memory=20)


def install(monkeypatch: pytest.MonkeyPatch, *refuse: str) -> FakePynvml:
    library = FakePynvml(*refuse)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_gpus_are_listed_and_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    library = install(monkeypatch)
    nvml = Nvml()
    assert nvml.gpus() == (
        Gpu(index=0, uuid="GPU-0", name="NVIDIA T4", memory_bytes=16_000),
        Gpu(index=1, uuid="GPU-1", name="NVIDIA T4", memory_bytes=16_000),
    )
    assert nvml.sample("GPU-1") == (0.87, 4_001)
    assert Nvml().sample("GPU-1") == (0.87, 4_001)  # by a process that did not list them
    assert nvml.unavailable is None
    assert library.opened == 2


def test_without_the_library_there_are_no_gpus_and_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nvml = Nvml()
    assert nvml.gpus() == ()
    assert nvml.sample("GPU-0") == (None, None)
    assert nvml.unavailable


def test_without_a_driver_there_are_no_gpus_and_the_reason_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, "nvmlInit")
    nvml = Nvml()
    assert nvml.gpus() == ()
    assert nvml.sample("GPU-0") == (None, None)
    assert nvml.unavailable == "nvmlInit is not supported"


@pytest.mark.parametrize(
    ("refused", "sample"),
    [
        ("nvmlDeviceGetUtilizationRates", (None, 4_000)),
        ("nvmlDeviceGetMemoryInfo", (0.87, None)),
        ("nvmlDeviceGetHandleByUUID", (None, None)),
    ],
)
def test_what_a_gpu_refuses_to_tell_is_none(
    monkeypatch: pytest.MonkeyPatch, refused: str, sample: tuple[float | None, int | None]
) -> None:
    install(monkeypatch, refused)
    assert Nvml().sample("GPU-0") == sample


def test_gpus_that_cannot_be_counted_count_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "nvmlDeviceGetCount")
    nvml = Nvml()
    assert nvml.gpus() == ()
    assert nvml.unavailable


GPUS = tuple(
    Gpu(index=i, uuid=f"GPU-{c * 4}", name="A", memory_bytes=1) for i, c in enumerate("abc")
)


@pytest.mark.parametrize(
    ("setting", "indices"),
    [
        ("", []),
        ("0,2", [0, 2]),
        ("2,0", [2, 0]),
        ("GPU-bb", [1]),
        ("1,7,0", [1]),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_does(setting: str, indices: list[int]) -> None:
    seen = visible(GPUS, {"CUDA_VISIBLE_DEVICES": setting})
    assert [gpu.index for gpu in seen] == indices


def test_all_gpus_are_visible_when_nothing_is_said() -> None:
    assert visible(GPUS, {}) == GPUS


BUSY = """
import subprocess, sys, time
block = bytearray(60_000_000)
child = subprocess.Popen([sys.executable, "-c",
    "import time; block = bytearray(60_000_000); print('up', flush=True); time.sleep(600)"])
until = time.process_time() + 0.3
while time.process_time() < until: sum(range(1000))
print("worked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    yield process
    with contextlib.suppress(ProcessLookupError):  # a test may have ended them
        os.killpg(process.pid, 9)
    process.wait()
    assert process.stdout
    process.stdout.close()


def identity(pid: int) -> ProcessId:
    ticks = start_ticks(pid)
    assert ticks is not None
    return ProcessId(pid, ticks)


def test_a_tree_is_measured_with_its_children(worker: subprocess.Popen[str]) -> None:
    meter = TreeMeter(identity(worker.pid), cores=2)
    before_s = time.monotonic()
    assert meter.sample(before_s)[0] is None  # a share needs two looks
    assert worker.stdout
    assert {worker.stdout.readline(), worker.stdout.readline()} == {"up\n", "worked\n"}
    cpu, rss = meter.sample(before_s + 10.0)
    assert cpu is not None and 0.25 / 10 / 2 < cpu < 1.5 / 10 / 2
    assert rss is not None and rss > 120_000_000


def test_the_tree_is_found_without_the_kernels_lists_of_children(
    worker: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.stdout
    worker.stdout.readline()
    worker.stdout.readline()
    expected = set(metrics._tree_pids(worker.pid))
    assert len(expected) == 2
    monkeypatch.setattr(metrics.os.path, "exists", lambda _: False)
    assert set(metrics._tree_pids(worker.pid)) == expected


def test_a_tree_that_ended_is_not_measured(worker: subprocess.Popen[str]) -> None:
    meter = TreeMeter(identity(worker.pid), cores=1)
    meter.sample(0.0)
    os.killpg(worker.pid, 9)
    worker.wait()
    assert meter.sample(1.0) == (None, None)


def test_another_process_of_the_same_number_is_not_measured(
    worker: subprocess.Popen[str],
) -> None:
    now = identity(worker.pid)
    meter = TreeMeter(ProcessId(now.pid, now.start_ticks - 1), cores=1)
    assert meter.sample(0.0) == (None, None)


def test_another_process_of_the_same_number_is_not_signalled(
    worker: subprocess.Popen[str],
) -> None:
    import signal

    now = identity(worker.pid)
    earlier = ProcessId(now.pid, now.start_ticks - 1)
    assert now.alive() and not earlier.alive()
    earlier.send(signal.SIGKILL)
    assert now.alive()
    now.send(signal.SIGKILL)
    worker.wait()
    assert not now.alive()
    now.send(signal.SIGKILL)  # gone: nothing happens
