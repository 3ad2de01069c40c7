"""`LlmRegressor`: time of an iteration of a language model, as a distribution.

    python -m predictors.llm --data DIR --out FILE

fits it to the measurements of a folder and keeps what was learned as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from copy import copy
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from planner.core.distribution import Evidence, Z
from predictors.estimator import Estimator
from predictors.features import take, targets
from predictors.gpus import peak_of
from predictors.llm_belief import Belief
from predictors.llm_doubt import Strays, strays
from predictors.llm_law import COLUMNS, Table
from predictors.llm_rows import llm_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.core.distribution import Array

    Mask = NDArray[np.bool_]

PRIOR_FILE = Path(__file__).parent / "data" / "llm.json"
_SHAPE = ("hidden_size", "attention_heads", "seq_len")
_LAYOUT = ("tp", "dp", "pp")
_ARCHITECTURE = (*_SHAPE, "num_layers")
_OTHER_GPU, _UNKNOWN_GPU = 0.25, 1.0
"""Standard deviation of the logarithm on a GPU type that was not fitted: peaks known, or not."""
_PROBED_WIDTH = 0.7
"""Factor of the standard deviation across nodes once the model was probed there.

Nine in ten rows of the published job that needed most (tests/support/llm_published.csv) needed
0.65, with any three of its rows as probes.
"""
_NEW_LAYOUT_SIGMA = 0.01
"""Further standard deviation of the logarithm at a parallelism that nobody fitted.

With whole (tp, pp) of the published rows left out, the rest was right within 0.6 %, but one GPU
alone, where the head is a case of its own, was off by up to 2 %.
"""
_FITS = 3
_LEVEL = 0.9
_Z95 = 1.6448536269514722
_CHUNK = 8192


class LlmRegressor(Estimator):
    """Time of one iteration, s, of a GPT with tensor, data and pipeline parallelism.

    The law is `predictors.llm_law`; `predictors.llm_belief` says what is known of it. `fit` learns
    from other models' iterations, `adapt` from the probes of the model that is asked for.

    Args:
        gpu: GPU type of rows without a column `gpu_type`.
        network_gb_per_s: Between nodes, for all GPUs of a node together, 1e9 bytes/s. The default
            lies between a cloud's 50 and the 200 of eight links of HDR InfiniBand.
        noise_sigma: Least standard deviation of the logarithm of a fitted row.
        probe_sigma: The same of a probe, and of rows of several nodes.

    Attributes:
        belief_: What is known of the law.
        noise_: Standard deviation of the logarithm of the fitted rows.
        width_: Factor of the standard deviation at fitted shapes, from held-out architectures.
        new_width_: The same at other shapes, from held-out hidden sizes.
        gpus_: GPU types of the fitted rows.
        shapes_: Hidden sizes, heads and sequence lengths of the fitted rows.
        layouts_: Their parallelism.
        probes_: Probed configurations; None before `adapt`.
        differs_: Whether the probes do not look like the fitted rows.
        strays_: Probes that do not belong; None before `adapt`.
        n_features_in_: Number of columns.
    """

    strays_: Strays | None = None

    def __init__(
        self,
        *,
        gpu: str = "A100",
        network_gb_per_s: float = 100.0,
        noise_sigma: float = 0.001,
        probe_sigma: float = 0.05,
    ) -> None:
        self.gpu = gpu
        self.network_gb_per_s = network_gb_per_s
        self.noise_sigma = noise_sigma
        self.probe_sigma = probe_sigma

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from measured iterations, of any models.

        Args:
            X: Configurations, `llm_law.COLUMNS`, and `gpu_type` if rows differ in it.
            y: Iteration times, s.

        Raises:
            ValueError: Columns or values are wrong, or a configuration cannot be.
        """
        c, gpus = self._rows(X)
        log_s = np.log(targets(y, len(c["tp"]), unit="s"))
        self.gpus_: tuple[str, ...] = tuple(sorted(set(gpus)))
        self.shapes_: Array = np.unique(_columns(c, _SHAPE), axis=0)
        self.layouts_: Array = np.unique(_columns(c, _LAYOUT), axis=0)
        self.probes_: Array | None = None
        self.differs_ = False
        self.n_features_in_ = len(COLUMNS)
        self.belief_, self.noise_ = self._learn(c, log_s)
        self.width_, self.new_width_ = self._calibrate(c, log_s)
        return self

    def _learn(self, c: Table, log_s: Array) -> tuple[Belief, float]:
        """The belief after some rows, their noise raised until it is what is left of them."""
        prior, noise = Belief.prior(c), float(self.noise_sigma)
        away = (c["num_nodes"] > 1).astype(float)
        for _ in range(_FITS):
            sigma = np.where(away > 0, max(self.probe_sigma, noise), noise)
            found = prior.update(c, log_s, sigma, elsewhere=away)
            left = log_s - found.linearise(found.design(c), away)[0]
            rms = float(np.sqrt(np.mean((left * noise / sigma) ** 2)))
            if rms <= noise:
                break
            noise = rms
        return found, noise

    def _calibrate(self, c: Table, log_s: Array) -> tuple[float, float]:
        """Widths at which held-out architectures, and hidden sizes, would have been covered."""
        _, job = np.unique(_columns(c, _ARCHITECTURE), axis=0, return_inverse=True)
        _, hidden = np.unique(c["hidden_size"], return_inverse=True)
        known, new = [], []
        for out in [job == j for j in range(job.max() + 1)]:
            if _within(c, _SHAPE, np.unique(_columns(c, _SHAPE)[~out], axis=0))[out].all():
                known.append(self._score(c, log_s, out))
        for out in [hidden == h for h in range(hidden.max() + 1)]:
            if not out.all():
                new.append(self._score(c, log_s, out))
        return _width(known) or 1.0, _width(new) or 1.0

    def _score(self, c: Table, log_s: Array, out: Mask) -> Array:
        """Errors of the rows left out, in half-widths of their 90 % intervals."""
        belief, noise = self._learn(take(c, np.flatnonzero(~out)), log_s[~out])
        held = take(c, np.flatnonzero(out))
        away = (held["num_nodes"] > 1).astype(float)
        centre, J, unknown = belief.linearise(belief.design(held), away)
        sd = np.sqrt(((J @ belief.root) ** 2).sum(axis=1) + unknown + noise**2)
        score: Array = np.abs(log_s[out] - centre) / sd / _Z95
        return score

    def adapt(self, X: Any, y: Any) -> LlmRegressor:
        """This regressor after probes of the model that is asked for; itself stays as it is.

        Where the probes do not look like the fitted rows, all of the model's parts may differ from
        theirs; else only those that do anyway, on other GPUs and across nodes.

        Args:
            X: Probed configurations, as for `fit`.
            y: Their iteration times, s.

        Raises:
            ValueError: As `fit`.
        """
        self._check_fitted()
        c, gpus = self._rows(X)
        log_s = np.log(targets(y, len(c["tp"]), unit="s"))
        new = self._strange(gpus)
        here, away = self.belief_.at(c).apart(float(new.max())), self._away(c, new)
        everywhere = np.ones(len(log_s))
        found = strays(here, c, log_s, self._sigma(everywhere))
        sigma = [found.noise(self._sigma(where)) for where in (away, everywhere)]
        alike = here.log_likelihood(c, log_s, sigma[0], elsewhere=away)
        other = here.log_likelihood(c, log_s, sigma[1], elsewhere=everywhere)
        adapted = copy(self)
        adapted.differs_ = bool(other > alike or np.any(new > 0))
        i, where = (1, everywhere) if adapted.differs_ else (0, away)
        adapted.belief_ = here.update(c, log_s, sigma[i], elsewhere=where)
        adapted.probes_ = _columns(c, COLUMNS)
        adapted.strays_ = found
        adapted.gpus_ = tuple(sorted({*self.gpus_, *gpus}))
        return adapted

    def predict(self, X: Any) -> Array:
        """Median iteration times, s, shape (n,)."""
        return np.exp(self.log_moments(X)[0])

    def predict_distribution(self, X: Any) -> Array:
        """Quantiles of a measured iteration, s, shape (n, len(LEVELS))."""
        centre, low, high = self.log_moments(X)
        z = np.asarray(Z)
        spread = np.where(z < 0, low[:, None], high[:, None])
        result: Array = np.exp(centre[:, None] + spread * z)
        return result

    def log_moments(self, X: Any) -> tuple[Array, Array, Array]:
        """Median of the logarithm of a measured iteration, and spreads below and above; each (n,).

        The spreads are standard deviations, as much wider as probes do not belong (`strays_`).
        """
        self._check_fitted()
        centre, sd = self._usual(X)
        if self.strays_ is None:
            return centre, sd, sd
        high = np.hypot(sd, self.strays_.sigma)
        return centre, np.hypot(high, self.strays_.below), high

    def _usual(self, X: Any) -> tuple[Array, Array]:
        """Median and standard deviation of the logarithm if all probes belong; each (n,)."""
        c, gpus = self._rows(X)
        new = self._strange(gpus)
        away = np.ones(len(new)) if self.differs_ else self._away(c, new)
        parts = [
            self._moments(take(c, rows), away[rows])
            for rows in np.split(np.arange(len(new)), range(_CHUNK, len(new), _CHUNK))
        ]
        centre, sd = (np.concatenate(column) for column in zip(*parts, strict=True))
        return centre, np.hypot(sd, new)

    def log_draws(self, X: Any, rng: np.random.Generator, *, size: int) -> Array:
        """Joint draws of the logarithm of a measured iteration, shape (size, n).

        What is unsure of the law is shared by all rows as the law has it, and what probes that do
        not belong leave open by all alike; the rest is each row's.
        """
        self._check_fitted()
        c, gpus = self._rows(X)
        new = self._strange(gpus)
        away = np.ones(len(new)) if self.differs_ else self._away(c, new)
        centre, J, _ = self.belief_.linearise(self.belief_.design(c), away)
        shared = J @ self.belief_.root
        _, sd = self._usual(X)
        known = np.sqrt((shared**2).sum(axis=1))
        wide = np.where(known > 0, np.minimum(sd / np.maximum(known, 1e-12), 1.0), 1.0)
        own = np.sqrt(np.maximum(sd**2 - (wide * known) ** 2, 0.0))
        drawn = rng.standard_normal((size, shared.shape[1])) @ shared.T
        result: Array = centre + wide * drawn + own * rng.standard_normal((size, len(new)))
        return result if self.strays_ is None else result + self.strays_.draws(rng, size=size)

    def _moments(self, c: Table, away: Array) -> tuple[Array, Array]:
        centre, J, unknown = self.belief_.linearise(self.belief_.design(c), away)
        sigma = self._sigma(away)
        sd = np.sqrt(((J @ self.belief_.root) ** 2).sum(axis=1) + unknown + sigma**2)
        known = _within(c, _SHAPE, self.shapes_)
        widths = np.where(known, self.width_, self.new_width_)
        # No held-out rows tell of layouts that nobody fitted: nothing is taken off there.
        seen = _within(c, _LAYOUT, self.layouts_)
        widths = np.where(seen, widths, np.maximum(widths, 1.0))
        sd = np.hypot(sd, np.where(seen, 0.0, _NEW_LAYOUT_SIGMA))
        probed = self.probes_ is not None and self._across(self.probes_)
        return centre, sd * np.where(away > 0, _PROBED_WIDTH if probed else 1.0, widths)

    @staticmethod
    def _across(probes: Array) -> bool:
        """Whether some of them ran on several nodes."""
        return bool(np.any(probes[:, COLUMNS.index("num_nodes")] > 1))

    def _sigma(self, away: Array) -> Array:
        return np.where(away > 0, max(self.probe_sigma, self.noise_), self.noise_)

    def _away(self, c: Table, new: Array) -> Array:
        """1.0 where parts may differ from those of the fitted rows by factors of their own."""
        return ((c["num_nodes"] > 1) | (new > 0)).astype(float)

    def _strange(self, gpus: Sequence[str]) -> Array:
        """Standard deviation of the logarithm for each row's GPU type alone."""
        known = {gpu: _OTHER_GPU if peak_of(gpu) else _UNKNOWN_GPU for gpu in set(gpus)}
        return np.asarray([0.0 if gpu in self.gpus_ else known[gpu] for gpu in gpus])

    def evidence(self, X: Any) -> list[Evidence]:
        """What each row's prediction rests on.

        A probe of the same configuration, other probes of the model, other models within a node of
        the same GPUs, or nothing but the law.
        """
        self._check_fitted()
        c, gpus = self._rows(X)
        unseen = c["num_nodes"] > 1
        if self.probes_ is None:
            tried = np.zeros(len(unseen), bool)
        else:
            tried = _within(c, COLUMNS, self.probes_)
            unseen &= not self._across(self.probes_)
        known: Evidence = "history" if self.probes_ is None else "transfer"
        unseen |= self._strange(gpus) > 0
        return [
            "prior" if u else "probe" if t else known for u, t in zip(unseen, tried, strict=True)
        ]

    def _rows(self, X: Any) -> tuple[dict[str, Array], list[str]]:
        return llm_rows(X, gpu=self.gpu, network_gb_per_s=self.network_gb_per_s)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        self._check_fitted()
        if self.probes_ is not None:
            raise ValueError("only what was learned of other models is kept, not an adapted one")
        return {
            "kind": "llm/1",
            "belief": self.belief_.to_json(),
            "noise": self.noise_,
            "width": self.width_,
            "new_width": self.new_width_,
            "gpus": list(self.gpus_),
            "shapes": self.shapes_.tolist(),
            "layouts": self.layouts_.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], **params: Any) -> LlmRegressor:
        """What `to_json` gave.

        Args:
            data: The document.
            params: Of the constructor.

        Raises:
            ValueError: Not such a document.
        """
        if data.get("kind") != "llm/1":
            raise ValueError(f"not a regressor of language models: kind is {data.get('kind')!r}")
        found = cls(**params)
        found.belief_ = Belief.from_json(data["belief"])
        found.noise_, found.width_ = float(data["noise"]), float(data["width"])
        found.new_width_ = float(data["new_width"])
        found.gpus_ = tuple(data["gpus"])
        found.shapes_ = np.asarray(data["shapes"], dtype=float)
        found.layouts_ = np.asarray(data["layouts"], dtype=float)
        found.probes_, found.differs_ = None, False
        found.n_features_in_ = len(COLUMNS)
        return found


def bundled(**params: Any) -> LlmRegressor:
    """The regressor as it comes with planner, fitted to published measurements.

    Args:
        params: Of `LlmRegressor`.
    """
    return LlmRegressor.from_json(json.loads(PRIOR_FILE.read_text(encoding="utf-8")), **params)


def _columns(c: Table, names: Sequence[str]) -> Array:
    return np.stack([c[name] for name in names], axis=1)


def _within(c: Table, names: Sequence[str], known: Array) -> Mask:
    """Whether some columns of a row, together, are among known ones."""
    found: Mask = (_columns(c, names)[:, None, :] == known[None]).all(axis=2).any(axis=1)
    return found


def _width(scores: Sequence[Array]) -> float | None:
    """Split conformal on whole jobs: what nine in ten of them would have needed.

    A job needs the 90 % quantile of its rows' scores (Lei et al. 2018,
    doi:10.1080/01621459.2017.1307116, with jobs in place of rows).
    """
    needed = sorted(float(np.quantile(score, _LEVEL)) for score in scores)
    return needed[min(ceil((len(needed) + 1) * _LEVEL), len(needed)) - 1] if needed else None


def main(argv: Sequence[str] | None = None) -> int:
    """Fit to a folder of measurements (`predictors.evaluate.data`) and write JSON."""
    from predictors.evaluate.data import read

    parser = argparse.ArgumentParser(prog="python -m predictors.llm", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with CSV files")
    parser.add_argument("--out", type=Path, default=PRIOR_FILE, help="JSON file to write")
    args = parser.parse_args(argv)
    jobs = read(args.data).llm
    X: dict[str, Any] = {n: np.concatenate([job.columns[n] for job in jobs]) for n in COLUMNS}
    X["gpu_type"] = [job.gpu for job in jobs for _ in job.iteration_s]
    model = LlmRegressor().fit(X, np.concatenate([job.iteration_s for job in jobs]))
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(model.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
