"""Where everything lies in the state directory, and what an id may look like."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from planner.core.errors import NotFoundError
from planner.store.files import store_error

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "afs", "9p"}
    | {"glusterfs", "ocfs2", "panfs", "orangefs", "virtiofs", "fuse.sshfs", "fuse.glusterfs"}
)


def check_id(text: str) -> str:
    """`text` itself when it can be the name of one file or folder, and nothing else.

    Raises:
        NotFoundError: It holds a separator, starts with a dot, or is empty or too long.
    """
    if not _ID.fullmatch(text) or ".." in text:
        raise NotFoundError(
            f"{text!r} is not an id", hint="ids look like r-7f3k or e-4be1c02; see planner status"
        )
    return text


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run. Paths only; `create` makes the folders."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id: the folder's name."""
        return self.path.name

    @property
    def plan(self) -> Path:
        """The agreed `Plan`."""
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        """The run's events: what is true."""
        return self.path / "journal.ndjson"

    @property
    def control(self) -> Path:
        """What the workers poll; see docs/training-script.md."""
        return self.path / "control.json"

    @property
    def supervisor(self) -> Path:
        """Process id and create time of the supervisor."""
        return self.path / "supervisor.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that may write the journal."""
        return self.path / "supervisor.lock"

    @property
    def supervisor_log(self) -> Path:
        """Standard output and errors of the supervisor."""
        return self.path / "supervisor.log"

    @property
    def report(self) -> Path:
        """The final report."""
        return self.path / "report.json"

    @property
    def commands(self) -> Path:
        """Requests to the supervisor, one file each."""
        return self.path / "commands"

    @property
    def attempts(self) -> Path:
        """One folder for each launch."""
        return self.path / "attempts"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, when the job file names no other place."""
        return self.path / "checkpoints"

    @property
    def output(self) -> Path:
        """Whatever else the script keeps."""
        return self.path / "output"

    @property
    def stage(self) -> Path:
        """The staged SDK."""
        return self.path / "stage"

    def attempt(self, number: int) -> AttemptDir:
        """The folder of one launch, counted from 1."""
        return AttemptDir(self.attempts / str(number))

    def create(self) -> None:
        """Make the run's folders. Raises `StoreError`."""
        for folder in (self.commands, self.attempts, self.checkpoints, self.output, self.stage):
            make_folder(folder)


@dataclass(frozen=True, slots=True)
class UnitDir:
    """The folder of one launch of a runner. Its files are called by worker numbers."""

    path: Path

    @property
    def handle(self) -> Path:
        """The runner's `Handle`."""
        return self.path / "handle.json"

    def events(self, worker: int) -> Path:
        """What one worker says."""
        return self.path / f"events-{worker}.ndjson"

    def out(self, worker: int) -> Path:
        """One worker's standard output."""
        return self.path / f"worker-{worker}.out"

    def err(self, worker: int) -> Path:
        """One worker's standard errors."""
        return self.path / f"worker-{worker}.err"

    @property
    def output_times(self) -> Path:
        """When the output files had which size."""
        return self.path / "output-times.ndjson"

    def printing(self) -> tuple[int, ...]:
        """Numbers of the workers that have files for what they print, in order."""
        return tuple(sorted(_numbers(self.path, _OUT)))

    def speaking(self) -> tuple[int, ...]:
        """Numbers of the workers that have an event file, in order."""
        return tuple(sorted(_numbers(self.path, _EVENTS)))


@dataclass(frozen=True, slots=True)
class AttemptDir(UnitDir):
    """The folder of one attempt of a run: that of its first unit, later ones within it."""

    @property
    def number(self) -> int:
        """Counts the attempts of the run, from 1."""
        return int(self.path.name)

    @property
    def crew(self) -> Path:
        """Through which the workers of this attempt find each other."""
        return self.path / "crew"

    def unit(self, first_worker: int) -> UnitDir:
        """The folder of a unit that joined later, by the number of its first worker."""
        return UnitDir(self.path / "units" / str(first_worker))

    def units(self) -> dict[int, UnitDir]:
        """The folders of all units, by the number of their first worker: the first one is 0."""
        later = sorted(_numbers(self.path / "units", _NUMBER))
        return {0: UnitDir(self.path)} | {first: self.unit(first) for first in later}


_OUT = re.compile(r"worker-(\d+)\.(?:out|err)")
_EVENTS = re.compile(r"events-(\d+)\.ndjson")
_NUMBER = re.compile(r"(\d+)")


def _numbers(folder: Path, pattern: re.Pattern[str]) -> set[int]:
    """The numbers in the names of a folder's entries that fit; none where there is no folder."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise store_error(error, "list", folder) from error
    return {int(match[1]) for name in names if (match := pattern.fullmatch(name))}


@dataclass(frozen=True, slots=True)
class StateDir:
    """The state directory. Its folders are made when first asked for."""

    path: Path

    @property
    def estimates(self) -> Path:
        """Kept estimates, `<id>.json`. Raises `StoreError`."""
        return make_folder(self.path / "estimates")

    @property
    def probes(self) -> Path:
        """Kept probe results, `<id>.json`. Raises `StoreError`."""
        return make_folder(self.path / "probes")

    @property
    def slices(self) -> Path:
        """Slices of data sets. Raises `StoreError`."""
        return make_folder(self.path / "slices")

    @property
    def runs(self) -> Path:
        """One folder for each run. Raises `StoreError`."""
        return make_folder(self.path / "runs")

    @property
    def locks(self) -> Path:
        """Locks by run name. Raises `StoreError`."""
        return make_folder(self.path / "locks")

    @property
    def index(self) -> Path:
        """The index database; it can be rebuilt from the runs."""
        return self.path / "index.sqlite3"

    def run(self, run_id: str) -> RunDir:
        """The folder of a run, which need not exist. Raises `NotFoundError` for a bad id."""
        return RunDir(self.path / "runs" / check_id(run_id))

    def run_ids(self) -> tuple[str, ...]:
        """Ids of all runs that have a journal, in no order. Raises `StoreError`."""
        try:
            with os.scandir(self.path / "runs") as entries:
                names = [e.name for e in entries if e.is_dir() and _ID.fullmatch(e.name)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise store_error(error, "list", self.path / "runs") from error
        return tuple(name for name in names if self.run(name).journal.exists())

    def require_writable(self) -> None:
        """Write and remove a small file, so that a read-only place is told before any work.

        Raises:
            StoreError: The directory cannot be made or written.
        """
        make_folder(self.path)
        try:
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"x")
        except OSError as error:
            raise store_error(error, "write to the state directory", self.path) from error


def make_folder(path: Path) -> Path:
    """`path`, made with its parents where missing. Raises `StoreError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise store_error(error, "make the folder", path) from error
    return path


def file_system(path: Path) -> str:
    """Type of the file system that `path` is (or would be) on; empty when it cannot be told."""
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    target = path.absolute().resolve()
    best, kind = "", ""
    for line in mounts:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        mount = parts[1].encode().decode("unicode_escape")
        inside = target == Path(mount) or Path(mount) in target.parents
        if inside and len(mount) >= len(best):
            best, kind = mount, parts[2]
    return kind


def on_network_disk(path: Path) -> bool:
    """Whether `path` is on a network file system, where SQLite's write-ahead log is not safe."""
    return file_system(path) in _NETWORK_FILE_SYSTEMS
