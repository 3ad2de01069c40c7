"""Boosted trees kept as JSON and evaluated in numpy, so that predicting does not import xgboost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree as lists over its nodes; node 0 is the root and -1 as left child marks a leaf.

    Attributes:
        feature: Column that a node splits on.
        threshold: Goes left when the value is less than this; a leaf's value.
        left: Left child, or -1.
        right: Right child, or -1.
        missing_left: Where not-a-number goes.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    missing_left: tuple[bool, ...]

    def values(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """The leaf's value for every row of X, shape (n,)."""
        feature, left, right = (np.asarray(v) for v in (self.feature, self.left, self.right))
        threshold = np.asarray(self.threshold, dtype=np.float32)
        missing_left = np.asarray(self.missing_left)
        rows = np.arange(len(X))
        node = np.zeros(len(X), dtype=int)
        while np.any(inner := left[node] >= 0):
            value = X[rows, feature[node]]
            goes_left = np.where(np.isnan(value), missing_left[node], value < threshold[node])
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        result: NDArray[np.float32] = threshold[node]
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEnsemble:
    """A sum of trees over `features` columns, as xgboost's `gbtree` with a squared loss has it."""

    trees: tuple[Tree, ...]
    features: int
    base: float = 0.0

    def predict(self, X: Array) -> Array:
        """Sums of the trees' leaves, shape (n,).

        Args:
            X: Shape (n, features); not-a-number is missing.

        Raises:
            ValueError: Other columns than it was trained on.
        """
        if X.ndim != 2 or X.shape[1] != self.features:
            raise ValueError(f"need shape (n, {self.features}), got {X.shape}")
        single = X.astype(np.float32)  # xgboost compares and adds in single precision
        total = np.full(len(X), self.base, dtype=np.float32)
        for tree in self.trees:
            total = total + tree.values(single)
        return total.astype(float)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "trees/1",
            "features": self.features,
            "base": self.base,
            "trees": [
                {name: list(getattr(tree, name)) for name in Tree.__slots__} for tree in self.trees
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TreeEnsemble:
        """What `to_json` gave.

        Raises:
            ValueError: Not such a document.
        """
        if data.get("kind") != "trees/1":
            raise ValueError(f"not a tree ensemble: kind is {data.get('kind')!r}")
        trees = tuple(
            Tree(**{name: tuple(tree[name]) for name in Tree.__slots__}) for tree in data["trees"]
        )
        return cls(trees=trees, features=int(data["features"]), base=float(data["base"]))

    @classmethod
    def from_xgboost(cls, booster: Any) -> TreeEnsemble:
        """The trees of an `xgboost.Booster` (numeric splits, one target)."""
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        base = str(learner["learner_model_param"]["base_score"]).strip("[]")
        return cls(
            trees=tuple(_tree(t) for t in learner["gradient_booster"]["model"]["trees"]),
            features=int(learner["learner_model_param"]["num_feature"]),
            base=float(base),
        )


def _tree(data: Mapping[str, Any]) -> Tree:
    return Tree(
        feature=tuple(data["split_indices"]),
        threshold=tuple(float(v) for v in data["split_conditions"]),
        left=tuple(data["left_children"]),
        right=tuple(data["right_children"]),
        missing_left=tuple(bool(v) for v in data["default_left"]),
    )
