"""Tier 0: see the steps of a script that knows nothing of planner.

Nothing is touched until the script itself imports torch. Then a global hook after every optimiser
step counts and times them, and the time that training loaders keep the script waiting is added up.
Evaluation runs without gradients, which is how its loaders are told from the training one. As soon
as the script calls `planner.sdk.attach`, all of it is taken away again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.sdk.watcher import Watcher

_OPTIMIZER = "torch.optim.optimizer"
_LOADER = "torch.utils.data.dataloader"


class _State:
    """What was installed in this process."""

    watcher: Watcher | None = None
    undo: list[Callable[[], None]] = []  # noqa: RUF012 - one per process, on purpose
    aside = False


def install() -> None:
    """Wait for torch."""
    hooks: dict[str, Callable[[ModuleType], None]] = {
        _OPTIMIZER: _hook_optimizer,
        _LOADER: _hook_loader,
    }
    sys.meta_path.insert(0, _AfterImport(hooks))


def step_aside() -> None:
    """Take everything away: the script speaks for itself."""
    _State.aside = True
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _AfterImport)]
    while _State.undo:
        _State.undo.pop()()


def _watcher() -> Watcher | None:
    """The watcher of this process, made at the first sign of training."""
    if _State.aside:
        return None
    if _State.watcher is None:
        from planner.sdk.watcher import Watcher

        _State.watcher = Watcher()
    return _State.watcher


def _hook_optimizer(module: ModuleType) -> None:
    optimizer: Any = module
    own_pid = os.getpid()

    def after_step(stepped: Any, _args: object, _kwargs: object) -> None:
        watcher = _watcher() if os.getpid() == own_pid else None
        if watcher is not None:
            watcher.step_done(stepped)

    handle = optimizer.register_optimizer_step_post_hook(after_step)
    _State.undo.append(handle.remove)


def _hook_loader(module: ModuleType) -> None:
    loader: Any = module
    iterator = loader._BaseDataLoaderIter
    fetch, begin = iterator.__next__, loader.DataLoader.__iter__

    def timed_begin(self: Any) -> Any:
        batches = begin(self)
        watcher = _watcher()
        if watcher is not None:
            watcher.loader_begins(self, batches)
        return batches

    def timed_fetch(self: Any) -> Any:
        watcher = _watcher()
        return fetch(self) if watcher is None else watcher.fetch(self, fetch)

    def restore() -> None:
        iterator.__next__ = fetch
        loader.DataLoader.__iter__ = begin

    iterator.__next__ = timed_fetch
    loader.DataLoader.__iter__ = timed_begin
    _State.undo.append(restore)


class _AfterImport(MetaPathFinder):
    """Runs a hook right after a module was imported by whoever wants it."""

    def __init__(self, hooks: dict[str, Callable[[ModuleType], None]]) -> None:
        self._hooks = hooks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        hook = self._hooks.pop(fullname, None)
        if hook is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Hooking(spec.loader, hook)
        return spec


class _Hooking(Loader):
    """A module's own loader, and a hook after it."""

    def __init__(self, real: Loader, hook: Callable[[ModuleType], None]) -> None:
        self._real = real
        self._hook = hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        self._hook(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
