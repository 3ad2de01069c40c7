"""What this machine offers, what workers are told, and who gets which GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from planner.core.errors import ConfigError, RunnerError
from planner.core.job import Place
from planner.core.types import ResourceConfig
from runners import localplace, localstart, machine
from runners.base import LaunchSpec, Signal
from runners.local import LocalRunner
from runners.localstart import find_command
from runners.metrics import Gpu, Nvml

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class TwoGpus(Nvml):
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(
            Gpu(index=i, uuid=f"GPU-{i}-test", name="NVIDIA T4", memory_bytes=16_000 - i)
            for i in (0, 1)
        )

    def sample(self, uuid: str) -> tuple[float | None, int | None]:
        return 0.5, 1_000


class NoGpu(Nvml):
    def gpus(self) -> tuple[Gpu, ...]:
        self.unavailable = "NVML Shared Library Not Found"
        return ()


def place(**settings: Any) -> Place:
    return Place(runner="local", pool="local", settings=settings)


@pytest.fixture(autouse=True)
def _plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(localplace, "usable_cores", lambda: 8)
    monkeypatch.setattr(localplace, "memory_bytes", lambda: 32_000)


def test_cpu_slots_are_cores_by_default_and_cost_nothing_without_a_price() -> None:
    offers = localplace.offers(place(), NoGpu(), NOW)
    assert [o.resources.workers for o in offers] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert offers[1].resources == ResourceConfig(
        runner="local",
        pool="cpu",
        market="local",
        workers_per_node=2,
        vcpus_per_node=2,
        memory_bytes_per_node=32_000,
    )
    assert {(o.price.usd_per_h, o.price.source) for o in offers} == {(0.0, "free")}
    assert {o.price.as_of for o in offers} == {NOW}


def test_a_price_per_slot_is_a_contract() -> None:
    offers = localplace.offers(place(slots=2, usd_per_slot_h=0.05), NoGpu(), NOW)
    assert [(o.price.usd_per_h, o.price.source) for o in offers] == [
        (0.05, "contract"),
        (0.1, "contract"),
    ]


def test_gpus_are_taken_when_there_are_any() -> None:
    offers = localplace.offers(place(usd_per_gpu_h=0.5, usd_per_slot_h=0.05), TwoGpus(), NOW)
    assert [o.resources.gpus_per_node for o in offers] == [1, 2]
    both = offers[1]
    assert both.price.usd_per_h == 1.0
    assert both.resources.gpu == "NVIDIA T4"
    assert both.resources.gpu_memory_bytes == 15_999
    assert both.resources.vcpus_per_node == 8
    assert both.resources.pool == "gpu"


def test_on_gpus_a_price_per_slot_holds_where_there_is_none_per_gpu() -> None:
    offers = localplace.offers(place(usd_per_slot_h=0.05), TwoGpus(), NOW)
    assert [o.price.usd_per_h for o in offers] == [0.05, 0.1]


def test_device_and_slots_narrow_what_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(localplace.offers(place(slots=1), TwoGpus(), NOW)) == 1
    on_cpu = localplace.offers(place(device="cpu", slots=1), TwoGpus(), NOW)
    assert on_cpu[0].resources.gpus_per_node == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert len(localplace.offers(place(), TwoGpus(), NOW)) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert localplace.offers(place(slots=1), TwoGpus(), NOW)[0].resources.gpus_per_node == 0


def test_a_pool_may_be_given_a_name() -> None:
    assert localplace.offers(place(slots=1, pool="desk"), NoGpu(), NOW)[0].resources.pool == "desk"


def test_asking_for_gpus_where_there_are_none_says_why() -> None:
    with pytest.raises(RunnerError, match="NVML Shared Library Not Found") as caught:
        localplace.offers(place(device="gpu"), NoGpu(), NOW)
    assert caught.value.exit_code == 4
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slot": 2}, "'slot'"),
        ({"slots": 0}, "slots = 0"),
        ({"slots": True}, "slots = True"),
        ({"slots": "2"}, "slots = '2'"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"usd_per_slot_h": -1}, "usd_per_slot_h = -1"),
        ({"usd_per_gpu_h": "1"}, "usd_per_gpu_h = '1'"),
        ({"usd_per_gpu_h": float("nan")}, "usd_per_gpu_h = nan"),
        ({"pool": 3}, "pool = 3"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        localplace.offers(place(**settings), NoGpu(), NOW)
    assert said in caught.value.text
    assert caught.value.hint


def test_an_unknown_setting_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        localplace.offers(place(usd_per_slot=1), NoGpu(), NOW)
    assert "'usd_per_slot_h'" in (caught.value.hint or "")


# ---- GPUs of launches


def gpu_spec(folder: Path, workers: int) -> LaunchSpec:
    (folder / "attempt").mkdir(parents=True)
    return LaunchSpec(
        run_id=f"r-{folder.name}-{os.getpid()}",
        attempt=1,
        idempotency_key="k",
        argv=(sys.executable, "-c", "import time; time.sleep(600)"),
        workdir=str(folder),
        env={},
        resources=ResourceConfig(
            runner="local",
            pool="gpu",
            market="local",
            workers_per_node=workers,
            gpus_per_node=workers,
            gpu="NVIDIA T4",
            vcpus_per_node=2 * workers,
        ),
        place=place(),
        attempt_dir=str(folder / "attempt"),
        stage_dir=str(folder),
        stop_grace_s=0.2,
    )


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalRunner]:
    monkeypatch.setattr(localstart.platformdirs, "user_runtime_path", lambda *_, **__: tmp_path)
    yield LocalRunner(nvml=TwoGpus())


def environ(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(item.split("=", 1) for item in raw)


def test_each_worker_gets_a_gpu_of_its_own_until_it_ends(
    on_gpus: LocalRunner, tmp_path: Path
) -> None:
    first = on_gpus.launch(gpu_spec(tmp_path / "a", 1))
    second = on_gpus.launch(gpu_spec(tmp_path / "b", 1))
    try:
        pids = [h.data["workers"][0][0] for h in (first, second)]  # type: ignore[index]
        assert [environ(pid)["CUDA_VISIBLE_DEVICES"] for pid in pids] == [
            "GPU-0-test",
            "GPU-1-test",
        ]
        assert environ(pids[0])["OMP_NUM_THREADS"] == "2"
        (measured,) = on_gpus.measure(first)
        assert (measured.gpu_utilisation, measured.gpu_memory_bytes) == (0.5, 1_000)
        with pytest.raises(RunnerError, match="2 are used by other runs") as caught:
            on_gpus.launch(gpu_spec(tmp_path / "c", 1))
        assert caught.value.code == "environment.no_slot"
    finally:
        on_gpus.signal(first, Signal.KILL)
        on_gpus.release(first)
        on_gpus.signal(second, Signal.KILL)
        on_gpus.release(second)
    both = on_gpus.launch(replace(gpu_spec(tmp_path / "d", 2), stop_grace_s=0.2))
    assert both.data["gpus"] == ["GPU-0-test", "GPU-1-test"]
    on_gpus.release(both)


def test_grown_workers_get_free_gpus_and_those_of_ended_ones(
    on_gpus: LocalRunner, tmp_path: Path
) -> None:
    first = on_gpus.launch(gpu_spec(tmp_path / "a", 1))
    units = [
        replace(gpu_spec(tmp_path / f"b{n}", 1), run_id=str(first.data["run_id"]), first_worker=n)
        for n in (1, 2)
    ]
    units = [replace(unit, env={"WORLD_SIZE": "2"}) for unit in units]
    handles = [first]
    try:
        handles.append(on_gpus.grow(first, units[0]))
        with pytest.raises(RunnerError, match="2 are used") as caught:
            on_gpus.grow(first, units[1])
        assert caught.value.code == "environment.no_slot"
        on_gpus.shrink(first, [0])
        handles.append(on_gpus.grow(first, units[1]))
        assert [h.data["gpus"] for h in handles] == [["GPU-0-test"], ["GPU-1-test"], ["GPU-0-test"]]
    finally:
        for handle in handles:
            on_gpus.signal(handle, Signal.KILL)
            on_gpus.release(handle)


# ---- the machine


def test_a_containers_quota_cuts_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert machine.usable_cores() == 16
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == 16
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert machine.usable_cores() == 2
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == 1


def test_an_old_containers_quota_cuts_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cores() == 16
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    assert machine.usable_cores() == 4


def test_a_containers_limit_cuts_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.memory_bytes()
    assert whole > 100_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_bytes() == whole
    (tmp_path / "memory.max").write_text("100000000\n")
    assert machine.memory_bytes() == 100_000_000


def test_a_free_port_can_be_listened_on_and_is_not_given_out_again() -> None:
    port = machine.free_port()
    assert port not in {machine.free_port() for _ in range(20)}
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()


# ---- commands


def test_commands_are_found_as_a_shell_finds_them(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        tool = tmp_path / folder / "tool"
        tool.write_text("")
        tool.chmod(0o755 if folder == "two" else 0o644)
    path = f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two"
    assert find_command("tool", tmp_path, path) == f"{tmp_path}/two/tool"
    assert find_command("tool", tmp_path, "two") == f"{tmp_path}/two/tool"
    assert find_command("two/tool", tmp_path, "") == f"{tmp_path}/two/tool"
    assert find_command("./two/tool", tmp_path, "") == f"{tmp_path}/two/tool"
    with pytest.raises(RunnerError, match="not executable"):
        find_command("one/tool", tmp_path, path)
    with pytest.raises(RunnerError, match="does not exist"):
        find_command("two", tmp_path, str(tmp_path))  # a folder is no command
    with pytest.raises(RunnerError, match="does not exist on PATH") as caught:
        find_command("tol", tmp_path, path)
    assert "shell" in (caught.value.hint or "")


# ---- the keeper by itself


def test_a_keeper_that_is_told_nothing_ends() -> None:
    from runners import keeper

    done = subprocess.run(
        [sys.executable, "-I", "-S", keeper.__file__],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
