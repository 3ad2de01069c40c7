"""What the workers of one job agree on, over the script's own process group."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from planner.sdk.errors import SdkError


class Workers:
    """This worker and its peers. With a single worker nothing is sent."""

    def __init__(self, rank: int, count: int) -> None:
        self.rank = rank
        self.count = count
        self._code: int | None = None
        self._torch: Any = sys.modules.get("torch")
        self._dist: Any = self._torch.distributed if self._torch is not None else None
        if count == 1:
            return
        if self._dist is None or not self._dist.is_available() or not self._dist.is_initialized():
            raise SdkError(
                f"WORLD_SIZE is {count}, but torch.distributed is not initialised: call "
                "torch.distributed.init_process_group() before planner.attach()"
            )
        if self._dist.get_world_size() != count:
            raise SdkError(
                f"WORLD_SIZE is {count}, but the process group has {self._dist.get_world_size()}"
            )
        atexit.register(self._end)

    @property
    def leads(self) -> bool:
        """Whether this worker speaks and writes for all."""
        return self.rank == 0

    def highest(self, values: Sequence[int]) -> list[int]:
        """The largest over all workers, place by place."""
        if self.count == 1:
            return list(values)
        tensor = self._torch.tensor(values, dtype=self._torch.int64, device=self._device())
        self._dist.all_reduce(tensor, op=self._dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def collect(self, blob: bytes) -> list[bytes]:
        """Everyone's bytes, by rank."""
        if self.count == 1:
            return [blob]
        room = self.highest([len(blob)])[0]
        framed = len(blob).to_bytes(8, "little") + blob.ljust(room, b"\0")
        mine = self._torch.frombuffer(bytearray(framed), dtype=self._torch.uint8).to(self._device())
        everyone = [self._torch.empty_like(mine) for _ in range(self.count)]
        self._dist.all_gather(everyone, mine)
        blobs = [bytes(tensor.cpu().tolist()) for tensor in everyone]
        return [b[8 : 8 + int.from_bytes(b[:8], "little")] for b in blobs]

    def from_leader(self, text: str) -> str:
        """The leader's text, on every worker."""
        return self.collect(text.encode() if self.leads else b"")[0].decode()

    def leave(self) -> None:
        """Meet the others once more, then give up the process group."""
        if self.count > 1 and self._dist.is_initialized():
            self.highest([0])
            self._dist.destroy_process_group()

    def exit(self, code: int) -> NoReturn:
        """End the script with this exit code, whatever native threads do at the very end."""
        self._code = code
        raise SystemExit(code)

    def _end(self) -> None:
        # Registered at attach, hence after whatever the script registers later. A thread of the
        # communication library that still lives when its objects are destroyed aborts the process
        # ("terminate called without an active exception"), and the exit code is lost.
        if self._code is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._code)

    def _device(self) -> Any:
        return "cuda" if self._dist.get_backend() == "nccl" else "cpu"
