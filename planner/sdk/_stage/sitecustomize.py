"""Python imports this at the start of every worker: tier 0, for scripts without the SDK.

Runners put this file at the top of the staged folder that is first on the workers' PYTHONPATH,
next to the staged `planner` package. It does nothing where planner did not start the process, and
always goes on to the `sitecustomize` that would have been imported without it.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _next_sitecustomize() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


if os.environ.get("PLANNER_EVENTS"):
    try:
        from planner.sdk import shim

        shim.install()
    except Exception as error:  # a job must start whatever happens here
        print(f"planner: cannot watch this script's steps: {error!r}", file=sys.stderr)

_next_sitecustomize()
