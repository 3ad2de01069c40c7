"""Several micro-batches for one optimiser step, unseen by the script and without gradient hooks.

The script's loop calls zero_grad, backward, step and scheduler.step for every micro-batch. Inside
the loop over batches, the calls that must not act are turned away: zero_grad but for the first
micro-batch, the two steps and clipping but for the last. DistributedDataParallel sends gradients at
the last only, planner's own reduction works during the last backward pass. The turned-away methods
sit on the objects for the length of the loop and never show in a state_dict.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

from planner.sdk.clipping import find_clipping, intercept_clipping
from planner.sdk.crew.reduction import Reduction
from planner.sdk.errors import SdkError
from planner.sdk.gathering import REASON, Gathering
from planner.sdk.order import Micro

_WHOLE = Micro(0, 0)


class Accumulation:
    """Makes `optimizer` and `scheduler` act once per global batch.

    Attributes:
        reduction: Adds up the gradients of the workers that planner joins.
        gathering: Whether the script accumulates by itself.
        ticks: How often the scheduler is really stepped when the script steps it.
    """

    def __init__(self, *, model: Any, optimizer: Any, scheduler: Any, scaler: Any = None) -> None:
        self.reduction = Reduction(self.parameters, self._check_grown)
        self.gathering = Gathering(self.parameters, possible=hasattr(optimizer, "param_groups"))
        self.ticks = 1
        self._model = model
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._scaler = scaler
        self._micro = _WHOLE
        self._begun = False  # a step was turned away: zero_grad from here on would lose gradients
        self._finished = False  # gradients are those of the whole global batch
        self._accumulates = False  # the objects are taken hold of, not only watched
        self._frozen = False  # the scheduler stands still
        self._grown: tuple[Any, weakref.ref[Any]] | None = None  # a parameter, its gradient
        self._undo: list[Callable[[], None]] = []
        self._known: list[Any] = []
        self._counted = -1

    def install(
        self, *, accumulates: bool, freeze_scheduler: bool, own_ticks: bool = False
    ) -> None:
        """Take hold of the objects where that is needed; `remove` lets go.

        Args:
            accumulates: Some steps have more than one micro-batch, or may not count.
            own_ticks: The scheduler is not simply stepped once a step.
            freeze_scheduler: A probe may do more steps than the schedule is long, and some
                schedules refuse that.
        """
        self._frozen = freeze_scheduler
        self._counted = -1  # the model may have got other parts since
        self._accumulates = accumulates
        if not accumulates:
            find_clipping()  # a change that accumulates should find it done
            if self.gathering.possible:
                _wrap(self._optimizer, "step", self.gathering.before_step, self._undo)
                _wrap(self._optimizer, "zero_grad", self.gathering.before_clear, self._undo)
        else:
            _intercept(self._optimizer, "step", self._step, self._undo)
            _intercept(self._optimizer, "zero_grad", self._zero_grad, self._undo)
            intercept_clipping(self.gradients_ready, self.parameters, self._undo)
            for module in _with_inner(self._model):
                _intercept(module, "zero_grad", self._zero_grad, self._undo)
            if hasattr(self._scaler, "update"):
                _intercept(self._scaler, "update", self._scaler_update, self._undo)
        if hasattr(self._scaler, "step"):  # which leaves the optimizer's out on an overflow
            _wrap(self._scaler, "step", self.gathering.before_step, self._undo)
        if self._scheduler is not None and (accumulates or freeze_scheduler or own_ticks):
            _subclass(self._scheduler, "step", self._scheduler_step, self._undo)

    def remove(self) -> None:
        """Give the objects back as they were."""
        self.reduction.disarm()
        if self._accumulates:
            self._sync_gradients(True)
        self._accumulates = False
        while self._undo:
            self._undo.pop()()
        self._micro = _WHOLE

    def begin(self, micro: Micro) -> None:
        """Before the script sees the micro-batch."""
        self._micro = micro
        if micro.first:
            self._begun = False
            self._grown = None
        self._finished = False
        if micro.carry != 1.0:
            self._scale(micro.carry)
        if self.reduction.active:
            if micro.last:
                self.reduction.arm(micro.weight)
            else:
                self.reduction.disarm()
        if self._accumulates:
            self._sync_gradients(micro.last)

    def end(self) -> None:
        """After the script's loop body.

        Raises:
            SdkError: It accumulates by itself what several workers or micro-batches make up.
        """
        if not self._micro.last or self.reduction.failed:
            return
        self.gathering.ends()
        if self.gathering.found and (self.reduction.active or not self._micro.first):
            raise SdkError(REASON)

    def gradients_ready(self) -> bool:
        """Whether the gradients are now those of the whole global batch; makes them so."""
        if not self._micro.last:
            return False
        if not self._finished:
            self._finished = True
            self._check_grown()
            if self._micro.finish != 1.0 and not self.reduction.active:
                self._scale(self._micro.finish)
        return True

    def _step(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.reduction.failed:
            return None  # a worker was lost: the step is done again
        self.gathering.steps()
        if self.gradients_ready():
            self._begun = False
            return real(*args, **kwargs)
        self._begun = True
        self._check_grown()
        self._remember_grown()
        return None

    def _remember_grown(self) -> None:
        """Note one gradient that the next backward pass must add to."""
        if getattr(self._model, "gradient_as_bucket_view", False):
            return  # then DistributedDataParallel itself replaces gradients
        for parameter in self.parameters():
            if parameter.grad is not None and not parameter.grad.is_sparse:
                self._grown = parameter, weakref.ref(parameter.grad)
                return

    def _check_grown(self) -> None:
        """Refuse to lose gradients without a word.

        Raises:
            SdkError: The script dropped gradients by itself between two micro-batches.
        """
        if self._grown is not None:
            parameter, gradient = self._grown
            self._grown = None
            if parameter.grad is None or gradient() is not parameter.grad:
                raise SdkError(
                    "the script clears gradients by itself, so those of several micro-batches "
                    "cannot be gathered: use optimizer.zero_grad() or model.zero_grad()"
                )

    def parameters(self) -> list[Any]:
        """Every parameter that the optimiser changes, then those of the model that it does not.

        The latter may count as well: in the norm of all gradients, to which they are clipped.
        """
        groups = self._optimizer.param_groups
        count = sum(len(group["params"]) for group in groups)
        if count != self._counted:
            known = [p for group in groups for p in group["params"]]
            known += self._model.parameters() if hasattr(self._model, "parameters") else ()
            self._known = list({id(p): p for p in known}.values())
            self._counted = count
        return self._known

    def _zero_grad(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.gathering.clears()
        fresh = self._micro.first and not self._begun
        if fresh or self._finished:
            return real(*args, **kwargs)
        return None

    def _scheduler_step(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._micro.last or self._frozen or self.reduction.failed:
            return None
        result = None
        for _ in range(self.ticks):
            result = real(*args, **kwargs)
        return result

    def _scaler_update(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.reduction.failed:
            return real(*args, **kwargs)
        before = self._scaler.state_dict()
        real(*args, **kwargs)  # it forgets what it found in gradients that are computed again
        self._scaler.load_state_dict(before)
        return None

    def _scale(self, factor: float) -> None:
        torch: Any = sys.modules["torch"]
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if gradients:
            with torch.no_grad():
                torch._foreach_mul_(gradients, factor)

    def _sync_gradients(self, wanted: bool) -> None:
        if is_ddp(self._model):
            self._model.require_backward_grad_sync = wanted


def is_ddp(model: Any) -> bool:
    """Whether `model` is wrapped in DistributedDataParallel."""
    torch: Any = sys.modules.get("torch")
    parallel = getattr(getattr(torch, "nn", None), "parallel", None)
    return parallel is not None and isinstance(model, parallel.DistributedDataParallel)


def check_possible(*, model: Any, optimizer: Any, scaler: Any, workers: int, count: int) -> None:
    """Refuse to accumulate where it would train something else.

    Raises:
        SdkError: With a gradient scaler, without an optimiser, or with workers that no
            DistributedDataParallel joins.
    """
    if scaler is not None:
        why = "a gradient scaler checks and unscales gradients at every micro-batch"
        fix = "use bf16 without a scaler, or let micro-batch x workers be the global batch"
    elif optimizer is None:
        why, fix = "attach() was given no optimizer", "pass optimizer="
    elif workers > 1 and not is_ddp(model):
        why = "the model given to attach() is not wrapped in DistributedDataParallel"
        fix = "wrap it before attach()"
    else:
        return
    raise SdkError(f"{count} micro-batches for each step cannot be accumulated: {why}; {fix}")


def _with_inner(model: Any) -> list[Any]:
    if model is None:
        return []
    return [model, model.module] if is_ddp(model) else [model]


def _intercept(
    target: Any, name: str, handler: Callable[..., Any], undo: list[Callable[[], None]]
) -> None:
    """Send calls of `target.name` to `handler(real, ...)`, as a bound method like the real one."""

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def method(_self: Any, *args: Any, **kwargs: Any) -> Any:
            return handler(real, *args, **kwargs)

        return method

    _wrap(target, name, wrapped, undo)


def _wrap(
    target: Any,
    name: str,
    wrapped: Callable[[Callable[..., Any]], Callable[..., Any]],
    undo: list[Callable[[], None]],
) -> None:
    """Put `wrapped(real)` in the place of `target.name`, looking like it; `undo` puts that back."""
    own = vars(target).get(name)
    real = getattr(target, name)
    method = functools.update_wrapper(wrapped(real), getattr(real, "__func__", real))
    vars(target)[name] = types.MethodType(method, target)

    def restore() -> None:
        vars(target).pop(name, None)
        if own is not None:
            vars(target)[name] = own

    undo.append(restore)


def _subclass(
    target: Any, name: str, handler: Callable[..., Any], undo: list[Callable[[], None]]
) -> None:
    """The same through the object's class: a scheduler's state_dict shows all its attributes."""
    original = type(target)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(functools.partial(getattr(original, name), self), *args, **kwargs)

    functools.update_wrapper(method, getattr(original, name))
    target.__class__ = type(original.__name__, (original,), {name: method})
    target.__class__.__module__ = original.__module__
    target.__class__.__qualname__ = original.__qualname__

    def restore() -> None:
        target.__class__ = original

    undo.append(restore)
