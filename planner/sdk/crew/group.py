"""Process groups of planner's own, made beside those that train and swapped in when ready."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from planner.sdk.crew.connections import Connections, keep_from_children
from planner.sdk.crew.plan import Plan

_CONNECT_S = 20.0
_OPERATION_S = 3600.0
"""A peer may evaluate for long; that one is gone is noticed on its connection, not by a timeout."""
_LARGE_BYTES = 256 << 10
_CHUNK_BYTES = 4 << 20
_UNDER_WAY = 4


class GroupBroken(Exception):
    """A peer went away in the middle of a collective: nothing of it counts."""


class Group:
    """Collectives over one raw process group; `rank` and `size` are this worker's place in it."""

    def __init__(
        self, raw: Any, rank: int, size: int, device: Any, connections: Connections | None = None
    ) -> None:
        self._connections = connections
        self.rank = rank
        self.size = size
        self.device = device
        self.raw = raw
        self._torch: Any = sys.modules["torch"]
        self._options = self._torch.distributed.AllreduceOptions()
        self._options.timeout = timedelta(seconds=_OPERATION_S)

    def reduce(self, flat: Any) -> Any:
        """Start to add `flat` up over all workers, in place; `wait` for what it gives back.

        Raises:
            GroupBroken: It could not even be started.
        """
        try:
            return self.raw.allreduce([flat], self._options)
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error

    def wait(self, work: Any) -> None:
        """Wait for a collective. Raises `GroupBroken`."""
        try:
            work.wait()
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error

    def highest(self, values: Sequence[int]) -> list[int]:
        """The largest over all workers, place by place. Raises `GroupBroken`."""
        torch = self._torch
        tensor = torch.tensor(values, dtype=torch.int64, device=self.device)
        options = torch.distributed.AllreduceOptions()
        options.reduceOp = torch.distributed.ReduceOp.MAX
        options.timeout = timedelta(seconds=_OPERATION_S)
        try:
            self.wait(self.raw.allreduce([tensor], options))
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error
        return [int(value) for value in tensor.tolist()]

    def gather(self, blob: bytes) -> list[bytes]:
        """Everyone's bytes, by rank. Raises `GroupBroken`."""
        torch = self._torch
        sizes = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        sizes[self.rank] = len(blob)
        self.wait(self.reduce(sizes))
        room = int(sizes.max())
        mine = torch.frombuffer(bytearray(blob.ljust(max(1, room), b"\0")), dtype=torch.uint8)
        mine = mine.to(self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            self.wait(self.raw.allgather([everyone], [mine]))
        except RuntimeError as error:
            raise GroupBroken(str(error)) from error
        pairs = zip(everyone, sizes.tolist(), strict=True)
        return [part.cpu().numpy().tobytes()[:size] for part, size in pairs]

    def send_all(self, tensors: Sequence[Any], source: int) -> None:
        """Fill `tensors` on every worker with those of `source`, some at a time under way.

        They stand on the CPU and have one dimension. Raises `GroupBroken`.
        """
        options = self._torch.distributed.BroadcastOptions()
        options.rootRank = source
        options.timeout = timedelta(seconds=_OPERATION_S)
        under_way: deque[tuple[Any, _Parcel]] = deque()
        for chunk in _chunks(tensors):
            parcel = _Parcel(chunk, sends=self.rank == source)
            try:
                under_way.append((self.raw.broadcast([parcel.flat], options), parcel))
            except RuntimeError as error:
                raise GroupBroken(str(error)) from error
            if len(under_way) == _UNDER_WAY:
                self._arrived(*under_way.popleft())
        while under_way:
            self._arrived(*under_way.popleft())

    def _arrived(self, work: Any, parcel: _Parcel) -> None:
        self.wait(work)
        parcel.unpack()

    def abort(self) -> None:
        """Cut the connections, so that neither this worker nor its peers wait any longer."""
        if self._connections is not None:
            self._connections.cut()
        elif self.raw is not None:
            with contextlib.suppress(RuntimeError, AttributeError):  # not every version can
                self.raw.abort()


class _Parcel:
    """Tensors that travel together, as one flat one; a single one travels as it is."""

    def __init__(self, tensors: Sequence[Any], *, sends: bool) -> None:
        torch: Any = sys.modules["torch"]
        self._views = [tensor.view(torch.uint8) for tensor in tensors]
        self._sizes = [view.numel() for view in self._views]
        self._packed = not sends and len(tensors) > 1
        if len(tensors) == 1:
            self.flat = self._views[0]
        elif sends:
            self.flat = torch.cat(self._views)
        else:
            self.flat = torch.empty(sum(self._sizes), dtype=torch.uint8)

    def unpack(self) -> None:
        """It has arrived."""
        if self._packed:
            sys.modules["torch"]._foreach_copy_(self._views, list(self.flat.split(self._sizes)))


def _chunks(tensors: Sequence[Any]) -> Iterator[list[Any]]:
    """Small tensors gathered up to a size, large ones alone; the same on all workers."""
    small: list[Any] = []
    room = _CHUNK_BYTES
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if size >= _LARGE_BYTES:
            yield [tensor]
        elif size:
            if size > room:
                yield small
                small, room = [], _CHUNK_BYTES
            small.append(tensor)
            room -= size
    if small:
        yield small


class Store:
    """The store that this worker offers for its peers' groups to meet through, made when needed."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._store: Any = None

    def close(self) -> None:
        """No group meets through it any more."""
        self._store = None

    @property
    def address(self) -> tuple[str, int]:
        """Where peers find it."""
        if self._store is None:
            distributed = sys.modules["torch"].distributed
            # Left to itself it would listen on every address of the machine.
            server = socket.create_server((self._host, 0))
            keep_from_children(server)
            self._store = distributed.TCPStore(
                self._host,
                server.getsockname()[1],
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=_CONNECT_S),
                master_listen_fd=server.detach(),
            )
        return self._host, int(self._store.port)


def build(plan: Plan, worker: int, host: str, device: Any) -> tuple[Group | None, Group | None]:
    """Connect this worker's groups of a plan: to hand state over, and to train in.

    Blocks until all peers have come, some seconds at the most.

    Raises:
        RuntimeError: A peer did not come.
    """
    everyone = sorted(plan.everyone)
    handing: Group | None = None
    training: Group | None = None
    if len(everyone) > 1 and (plan.new or plan.recovers) and worker in everyone:
        rank = everyone.index(worker)
        handing = _connect(
            plan, f"h{plan.generation}", rank=rank, size=len(everyone), host=host, device=None
        )
    place = plan.rank(worker)
    if place is not None and len(plan.members) > 1:
        name = f"t{plan.generation}"
        training = _connect(
            plan, name, rank=place, size=len(plan.members), host=host, device=device
        )
        training.highest([0])  # some backends connect with the first collective only
    return handing, training


def _connect(plan: Plan, name: str, *, rank: int, size: int, host: str, device: Any) -> Group:
    distributed: Any = sys.modules["torch"].distributed
    timeout = timedelta(seconds=_CONNECT_S)
    connections = Connections(plan.hosts)
    store = distributed.TCPStore(*plan.store, is_master=False, timeout=timeout)
    store = distributed.PrefixStore(name, store)
    if device is not None and device.type == "cuda":
        raw = distributed.ProcessGroupNCCL(store, rank, size)
        return Group(raw, rank, size, device)
    options = distributed.ProcessGroupGloo._Options()
    options._devices = [distributed.ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = timeout
    options._threads = 2
    raw = distributed.ProcessGroupGloo(store, rank, size, options)
    connections.note()
    return Group(raw, rank, size, sys.modules["torch"].device("cpu"), connections)


def retire(*groups: Group | None, wait: bool = False) -> None:
    """Let go of groups on a thread of their own: closing connections takes milliseconds.

    At the end of the process one has to `wait`: native threads that still live when the interpreter
    is taken down abort it.
    """
    raws = []
    for group in groups:
        if group is not None:
            raws.append(group.raw)
            group.raw = None  # the thread's is the last reference: the end comes there
    if not raws:
        return
    thread = threading.Thread(target=raws.clear, name="planner-retire")
    thread.start()
    if wait:
        thread.join()
