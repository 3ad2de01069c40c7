"""Worker processes that need not import torch: forked from one that did, in milliseconds.

A worker is a real process with a session, an environment and files of its own. Only how it begins
and ends, the imports and taking them down again, is not as with a process of its own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path


class Child:
    """One worker, with what these tests use of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.printed: tuple[Path, ...] = ()
        self._ended = threading.Event()

    def ended(self, returncode: int) -> None:
        self.returncode = returncode
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(["worker", str(self.pid)], timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed and what it complained of, at its end."""
        self.wait(timeout)
        out, err = (path.read_text() for path in self.printed)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that workers are forked from. `path` is where they find the SDK."""

    def __init__(self, path: Path) -> None:
        basic = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=basic | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []
        self._said = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, script: Path, env: dict[str, str], out: Path, err: Path | None = None) -> Child:
        """Fork a worker that runs `script` with the variables of `env`.

        It prints to `out`, and complains to `err`, without which that goes to `out` as well.
        """
        assert self._server.stdin is not None
        said = {"script": str(script), "env": env, "out": str(out), "err": str(err or out)}
        self._server.stdin.write(json.dumps(said) + "\n")
        self._server.stdin.flush()
        with self._said:
            assert self._said.wait_for(lambda: bool(self._born), 60.0), "no worker was forked"
            child = self._born.pop()
        child.printed = (out, err or out)
        return child

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(20.0)

    def _listen(self) -> None:
        assert self._server.stdout is not None
        for line in self._server.stdout:
            pid, *code = json.loads(line)
            with self._said:
                if code:
                    self._children[pid].ended(code[0])
                else:
                    child = self._children[pid] = Child(pid)
                    self._born.append(child)
                    self._said.notify_all()


def _serve() -> dict[str, str] | None:
    """Fork whenever a line comes; None at the end, and in a worker what it is to do."""
    outlet = threading.Lock()

    def say(*values: int) -> None:
        with outlet:
            print(json.dumps(values), flush=True)

    def reap(pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        say(pid, os.waitstatus_to_exitcode(status))

    for line in sys.stdin:
        with outlet:  # no thread is in the middle of anything that the child would inherit
            pid = os.fork()
        if pid == 0:
            return dict(json.loads(line))
        say(pid)
        threading.Thread(target=reap, args=(pid,), daemon=True).start()
    return None


def _become(said: dict[str, str]) -> None:
    """A worker: nothing is left of the process that it comes from but what was imported."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    anew = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    out, err = (os.open(said[name], anew, 0o644) for name in ("out", "err"))
    for source, target in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(said["env"])  # type: ignore[arg-type]
    code: object = 0
    try:
        runpy.run_path(said["script"], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code if isinstance(code, int) else int(code is not None))


def _end(code: int) -> None:
    """As an interpreter ends, but for taking a thousand modules down, which takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    import torch
    import torch.distributed
    import torch.utils.data

    import planner.sdk.job  # noqa: F401

    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # which imports as much again

    gc.collect()
    gc.freeze()  # or every worker copies what its garbage collector touches
    work = _serve()
    if work is not None:
        _become(work)
    os._exit(0)
