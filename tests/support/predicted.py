"""Predictions whose parts fit together, from a running time and an offer."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.core.distribution import Distribution, add_independent
from planner.core.prediction import Prediction
from planner.core.types import Offer
from predictors.cost import CostRegressor
from predictors.interruptions import interrupted, ordered


def prediction(
    run_s: Distribution, offer: Offer, *, checkpoint_interval_s: float = 600.0, **others: Any
) -> Prediction:
    """What `run_s`, without wait and interruptions, comes to under an offer."""
    price, none = offer.price, CostRegressor().fit({"run_s": [], "usd_per_h": []}, [])
    run, expected = interrupted(
        np.asarray([run_s.quantiles]),
        per_h=np.asarray([price.interruptions_per_h or 0.0]),
        checkpoint_interval_s=np.asarray([checkpoint_interval_s]),
    )
    asked = {
        "run_s": run,
        "usd_per_h": [price.usd_per_h],
        "p50_24h_usd_per_h": [price.p50_24h_usd_per_h or np.nan],
        "p90_24h_usd_per_h": [price.p90_24h_usd_per_h or np.nan],
    }
    total = ordered(add_independent(np.asarray([offer.wait_s.quantiles]), run))

    def told(quantiles: np.ndarray) -> Distribution:
        return Distribution(quantiles=tuple(quantiles[0].tolist()), evidence=run_s.evidence)

    return Prediction(
        run_s=told(run),
        total_s=told(total),
        cost_usd=told(none.predict_distribution(asked)),
        interruptions=float(expected[0]),
        evidence=run_s.evidence,
        **others,
    )
