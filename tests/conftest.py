"""Shared by all tests: no network but this machine's own, nothing of the developer's planner."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from pytest_socket import socket_allow_hosts

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell starts what it puts in the background deaf to Ctrl-C, and nohup to a terminal that closes;
# what we start would be as well.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _only_this_machine() -> None:
    socket_allow_hosts(["127.0.0.1", "localhost", "::1"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _nobodys_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither settings, runs nor variables of whoever runs the tests reach them."""
    for name in [name for name in os.environ if name.startswith("PLANNER_")]:
        monkeypatch.delenv(name)
    for kind in ("CONFIG", "STATE", "CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "home" / kind.lower()))
