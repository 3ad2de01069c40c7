"""The scikit-learn conventions, without importing scikit-learn.

`planner estimate` has to answer within a second or two, and `import sklearn` alone takes one. The
regressors here follow its rules (a constructor that only stores, `fit` that returns itself, fitted
names that end in `_`, `get_params`, `set_params`) so that `sklearn.base.clone`, grid searches and
pipelines take them, while scikit-learn itself is imported only when it asks for tags.
"""

from __future__ import annotations

import inspect
from typing import Any, Self


class NotFittedError(ValueError, AttributeError):
    """A prediction was asked of an estimator before `fit`.

    Same bases as `sklearn.exceptions.NotFittedError`, so that it is caught in the same places.
    """


class Estimator:
    """Parameters by introspection of `__init__`, as `sklearn.base.BaseEstimator` has them."""

    @classmethod
    def _parameter_names(cls) -> tuple[str, ...]:
        names = inspect.signature(cls.__init__).parameters
        return tuple(sorted(name for name in names if name != "self"))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Constructor parameters and their values.

        Args:
            deep: Also those of parameters that are estimators, as `step__members`.
        """
        found = {name: getattr(self, name) for name in self._parameter_names()}
        if deep:
            for outer, part in tuple(found.items()):
                if isinstance(part, Estimator):
                    found |= {f"{outer}__{name}": v for name, v in part.get_params().items()}
        return found

    def set_params(self, **params: Any) -> Self:
        """Change constructor parameters; `step__members` is parameter `members` of `step`.

        Raises:
            ValueError: No such parameter.
        """
        known = self._parameter_names()
        for name, value in params.items():
            outer, _, inner = name.partition("__")
            part = getattr(self, outer, None) if inner and outer in known else None
            if isinstance(part, Estimator):
                part.set_params(**{inner: value})
                continue
            if name not in known:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(known)}"
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, RegressorTags, Tags, TargetTags

        return Tags(
            estimator_type="regressor",
            target_tags=TargetTags(required=True, positive_only=True),
            regressor_tags=RegressorTags(),
            input_tags=InputTags(allow_nan=True, positive_only=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return any(name.endswith("_") and not name.startswith("_") for name in vars(self))

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet; call fit first")

    def __repr__(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self.get_params(deep=False).items())
        return f"{type(self).__name__}({values})"
