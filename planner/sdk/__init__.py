"""What a training script imports: `import planner.sdk as planner`. Standard library only.

    job = planner.attach(model=model, optimizer=opt, scheduler=sched, epochs=args.epochs)
    for epoch, batches in job.epochs(loader):
        for images, target in batches:
            ...

Nothing here imports torch: it is used only when the script has imported it already. Without
planner's environment variables everything passes through, and the script runs as by hand.
The contract is docs/training-script.md.
"""

from __future__ import annotations

from planner.sdk.attach import attach, steps_per_epoch
from planner.sdk.errors import SdkError
from planner.sdk.job import Job

__all__ = ["Job", "SdkError", "attach", "steps_per_epoch"]
