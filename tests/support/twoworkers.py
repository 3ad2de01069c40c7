"""Two workers of a crew as threads of this process, joined by a group of Gloo's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed

from planner.sdk.crew.group import Group


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
