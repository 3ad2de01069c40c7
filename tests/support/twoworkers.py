"""Workers of a crew in this process: threads joined by a group of Gloo's, or a pretended group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed

from planner.sdk.crew.group import Group, GroupBroken


def on_two_workers(work: Callable[[int, Group], Any]) -> list[Any]:
    """What each worker's `work` returned, or what it raised."""
    store = distributed.HashStore()
    results: list[Any] = [None, None]

    def run(rank: int) -> None:
        try:
            options = distributed.ProcessGroupGloo._Options()
            options._devices = [distributed.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
            options._timeout = timedelta(seconds=20)
            raw = distributed.ProcessGroupGloo(store, rank, 2, options)
            results[rank] = work(rank, Group(raw, rank, 2, torch.device("cpu")))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive(), "a worker waits for ever"
    return results


class Pretended(Group):
    """A group of which this worker's part is all there is, while the others are `there`."""

    there = True

    def reduce(self, _flat: Any) -> Any:
        if not self.there:
            raise GroupBroken("one is gone")

    def gather(self, blob: bytes) -> list[bytes]:
        return [blob] * self.size
