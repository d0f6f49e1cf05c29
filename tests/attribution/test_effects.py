"""Effects beside a control, on made tables."""

import numpy as np
import pandas as pd
import pytest

from workbench.attribution.effects import minus_control
from workbench.errors import InputError


def made(seed, shift, problems=20):
    """Direct contributions of six components to 20 problems' KL, the third moved."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "problem": f"p{p}",
            "metric": "kl",
            "component": f"L{c} MLP",
            "kind": "norm scale" if c == 5 else "mlp",
            "change": rng.normal(c, 0.1) + (shift if c == 2 else 0) + (100 if c == 5 else 0),
        }
        for p in range(problems)
        for c in range(6)
    ]
    return pd.DataFrame(rows)


def test_the_largest_components_are_set_beside_the_controls():
    direct, control = made(0, 1.5), made(1, 0.0)
    claims = minus_control(direct, control.sample(frac=1, random_state=0), "sft", most=3)
    means = [table.groupby("component")["change"].mean() for table in (direct, control)]
    named = [claim.measured.split(" of ")[1].split(" to ")[0] for claim in claims]
    assert named == ["L4 MLP", "L2 MLP", "L3 MLP"]
    for component, claim in zip(named, claims, strict=True):
        assert claim.interval.estimate == pytest.approx(means[0][component] - means[1][component])
        assert "RLVR minus sft, nats" in claim.measured
    assert [claim.verdict for claim in claims] != ["holds"] * 3
    assert claims[1].verdict == "holds"
    assert claims[1].interval.low == pytest.approx(1.5, abs=0.15)


def test_other_problems_are_refused():
    with pytest.raises(InputError, match=r"`control` is of 3 problems that are not the 20 of `direct`"):
        minus_control(made(0, 0.0), made(0, 0.0, problems=3), "sft")
