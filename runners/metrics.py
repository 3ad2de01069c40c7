"""What workers use, seen from outside: NVML for GPUs, psutil for cores and memory.

Cheap enough to be asked once a second for every worker by a supervisor that must stay under 1 % of
a core: processes are looked up once, and only a worker's own tree is ever walked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from runners.processes import ProcessId

_TREE_REFRESH_S = 2.0
"""How long a worker's list of processes is used before it is read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU, as NVML names it."""

    index: int
    uuid: str
    name: str
    memory_bytes: int


class Nvml:
    """NVIDIA's management library, opened when first asked; everything is empty without it.

    Attributes:
        unavailable: Why there is nothing to ask, in one line; None once it answered.
    """

    def __init__(self) -> None:
        self.unavailable: str | None = None
        self._library: Any = None
        self._opened = False
        self._handles: dict[str, Any] = {}

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs of this machine; empty when NVML is absent or refuses."""
        nvml = self._open()
        if nvml is None:
            return ()
        try:
            count = nvml.nvmlDeviceGetCount()
            return tuple(self._gpu(nvml, index) for index in range(count))
        except nvml.NVMLError as error:
            self.unavailable = str(error)
            return ()

    def sample(self, uuid: str) -> tuple[float | None, int | None]:
        """Utilisation (fraction) and used memory (bytes) of one GPU; None for what it won't say."""
        nvml = self._open()
        if nvml is None:
            return None, None
        try:
            if uuid not in self._handles:
                self._handles[uuid] = nvml.nvmlDeviceGetHandleByUUID(uuid)
            handle = self._handles[uuid]
        except nvml.NVMLError:
            return None, None
        return (
            _ask(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            _ask(nvml, lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)),
        )

    def _open(self) -> Any:
        if not self._opened:
            self._opened = True
            try:
                import pynvml
            except ImportError as error:
                self.unavailable = str(error)
                return None
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                self.unavailable = str(error)
                return None
            self._library = pynvml
        return self._library

    def _gpu(self, nvml: Any, index: int) -> Gpu:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        self._handles[uuid] = handle
        return Gpu(
            index=index,
            uuid=uuid,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        )


def visible(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Those GPUs that `CUDA_VISIBLE_DEVICES` leaves to this process; all when it is not set.

    As CUDA reads it: numbers or (beginnings of) UUIDs, and nothing counts after an invalid one.
    """
    if "CUDA_VISIBLE_DEVICES" not in environ:
        return gpus
    left = []
    for item in environ["CUDA_VISIBLE_DEVICES"].split(","):
        name = item.strip()
        match = [g for g in gpus if name and (str(g.index) == name or g.uuid.startswith(name))]
        if len(match) != 1:
            break
        left += match
    return tuple(left)


class TreeMeter:
    """CPU share and resident memory of one worker and all its descendants.

    Args:
        root: The worker.
        cores: Cores of its slot: what a CPU fraction of 1 means.
    """

    def __init__(self, root: ProcessId, cores: int) -> None:
        self._root = root
        self._cores = cores
        self._tree: dict[int, psutil.Process] = {}
        self._read_at_s: float | None = None
        self._last: tuple[float, float] | None = None

    def sample(self, now_s: float) -> tuple[float | None, int | None]:
        """CPU use since the last call as a fraction of the slot (None at first), and bytes.

        The fraction exceeds 1 when loader processes and threads use more than the slot's cores.
        Memory is the sum over processes: pages that they share count once for each.

        Args:
            now_s: Monotonic time.
        """
        if self._read_at_s is None or now_s - self._read_at_s >= _TREE_REFRESH_S:
            self._read_tree()
            self._read_at_s = now_s
        cpu_s, rss_bytes = 0.0, 0
        for pid, process in tuple(self._tree.items()):
            try:
                times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                del self._tree[pid]
                continue
            # With those of children that ended: an ended child's time moves to its parent.
            cpu_s += times.user + times.system + times.children_user + times.children_system
            rss_bytes += memory.rss
        if not self._tree:
            return None, None
        last, self._last = self._last, (now_s, cpu_s)
        if last is None or now_s <= last[0]:
            return None, rss_bytes
        return max(0.0, cpu_s - last[1]) / (now_s - last[0]) / self._cores, rss_bytes

    def _read_tree(self) -> None:
        if not self._root.alive():
            self._tree = {}
            return
        pids = set(_tree_pids(self._root.pid))
        self._tree = {pid: p for pid, p in self._tree.items() if pid in pids}
        for pid in pids - self._tree.keys():
            try:
                self._tree[pid] = psutil.Process(pid)
            except psutil.Error:
                continue


def _tree_pids(root: int) -> Iterator[int]:
    """A process and its descendants, from /proc's lists of children (proc(5)).

    A kernel without those lists gives the whole process table to search instead.
    """
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        yield from _searched_pids(root)
        return
    yield root
    try:
        tasks = os.listdir(f"/proc/{root}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    for task in tasks:
        try:
            with open(f"/proc/{root}/task/{task}/children", "rb") as file:
                children = file.read().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            yield from _tree_pids(int(child))


def _searched_pids(root: int) -> Iterator[int]:
    try:
        tree = psutil.Process(root).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    yield root
    yield from (process.pid for process in tree)


def _ask(nvml: Any, question: Any) -> Any:
    """The answer, or None when this GPU (MIG, permissions, lost) gives none."""
    try:
        return question()
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
