"""The plan of a study: its costs by hand, and hundredths that grow to a hundred."""

from dataclasses import replace

import pytest
import tiny

from workbench.interventions import Patch, Replay
from workbench.studies.parts import Answers, Disturbances, Measures
from workbench.studies.plan import BACK_AND_FORTH, DIFFERENT, FEW_ROWS, WHOLE, Plan, Sizes

SIZES = Sizes(layers=1000.0, head=300.0, depth=4, positions=7)


def test_costs_are_those_of_products_counted_by_hand(tiny_pair):
    assert SIZES.trace(3) == 7 * (2 * 1000 + 4 * 3 * 300)
    assert SIZES.drift() == 7 * (1000 + 4 * 2 * 300)
    sampling = tiny_pair.sampling(samples=6, temperature=1.0, max_new_tokens=10)
    rows = 1 + 6 * DIFFERENT
    assert SIZES.answers(sampling) == pytest.approx(7 * 1000 + FEW_ROWS * rows * 5 * 1300)
    replay = Replay(layers=2, iterations=3)
    assert SIZES.learning(replay) == pytest.approx(BACK_AND_FORTH * 2 * 3 * 7 * 0.5 * 1000)
    assert SIZES.learning(replace(replay, site="mid_tokens", layer=1, layers=None)) == pytest.approx(
        BACK_AND_FORTH * 2 * 3 * 7 * 0.25 * 1000
    )


def test_sizes_are_those_of_the_model(tiny_pair):
    sizes = Sizes.of(tiny_pair.base, 5, tiny_pair.vocab_size)
    assert sizes.head == tiny_pair.vocab_size * tiny_pair.base.hidden_size
    layer = tiny_pair.base.layers[0]
    weights = sum(p.numel() for name, p in layer.named_parameters() if name.endswith("proj.weight"))
    assert sizes.layers == weights * tiny_pair.depth


def test_progress_of_the_whole_grows_to_a_hundred(tiny_pair):
    problems = [replace(tiny.problem("qwen2_5_vl"), id=str(i)) for i in range(4)]
    calls, sampling = [], tiny_pair.sampling(samples=2, temperature=1.0, max_new_tokens=3)
    conditions = {"tokens": Replay(layers=2), "patch": Patch(layers=2)}
    plan = Plan.of(
        tiny_pair,
        problems,
        Measures(0, 3, 1, 2, 10, 2),
        Answers(conditions, sampling, 2),
        Disturbances(False, 1, {}),
        lambda *call: calls.append(call),
    )
    assert {*plan.costs} == {
        "tracing both models",
        *("null model: permuted 1", "null model: gaussian 1"),
        *(f"answering: {name}" for name in ("base", "rlvr", "tokens", "patch")),
    }
    plan("loading the models", 1, 1)
    assert calls == [("loading the models", 1, 1)]
    plan("tracing both models", 2, 4)
    whole = sum(plan.costs.values())
    assert calls[-1] == (WHOLE, int(50 * plan.costs["tracing both models"] / whole), 100)
    for what in plan.costs:
        plan(what, 2, 2)
    shares = [done for what, done, _ in calls if what == WHOLE]
    assert shares == sorted(shares)
    assert shares[-1] == 100


def test_answers_of_fewer_problems_cost_so_much_less(tiny_pair):
    problems = [replace(tiny.problem("qwen2_5_vl"), id=str(i)) for i in range(4)]
    sampling = tiny_pair.sampling(samples=2, temperature=1.0, max_new_tokens=3)
    costs = [
        Plan.of(
            tiny_pair,
            problems,
            Measures(0, 3, 1, 2, 10, 2),
            Answers({"patch": Patch(layers=2)}, sampling, count),
            Disturbances(False, 0, {}),
            print,
        ).costs
        for count in (None, 1)
    ]
    for what, cost in costs[0].items():
        assert costs[1][what] == pytest.approx(cost / 4 if what.startswith("answering") else cost)
