"""Mixtures of two models as values: what they are called, what they are described by, and what they refuse."""

import doctest
import inspect
import json
import math
import re
from dataclasses import fields, replace

import pytest

import workbench as wb
from workbench.conditions import Condition, signature_of
from workbench.errors import InputError


@pytest.mark.parametrize("kind", [wb.CrossSample, wb.Extrapolate])
def test_help_explains_every_field_and_its_example_does_what_it_says(kind):
    text = inspect.getdoc(kind)
    told = re.findall(r"^    (\w+): ", text, re.MULTILINE)
    assert [field.name for field in fields(kind)] == [name for name in told if name != "InputError"]
    example = doctest.DocTestParser().get_doctest(text, {"wb": wb}, kind.__name__, None, None)
    said = []
    assert example.examples
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_they_are_conditions_like_any_other():
    crossed = wb.CrossSample("rlvr", "low_divergence", threshold=0.01, under=wb.Patch(layers=2))
    assert isinstance(crossed, Condition)
    assert (crossed.answered_by, crossed.guest, crossed.drawn_by_engine, crossed.needs_pictures) == (
        "rlvr", "base", False, False
    )  # fmt: skip
    assert crossed.title == "base into rlvr, low divergence < 0.01, rlvr with patch, low"
    assert wb.CrossSample(budget=0.05).title == "rlvr into base, 5% by divergence"
    assert wb.CrossSample("base", "random", budget=0.05).title == "rlvr into base, 5% at random"
    assert wb.Extrapolate(-0.5).title == "extrapolated by -0.5"
    assert wb.Extrapolate(1).answered_by == "rlvr"


def test_what_changes_results_is_in_the_signature_as_jsons_types():
    plain = wb.CrossSample("base", "divergence", threshold=math.inf)
    assert json.loads(json.dumps(signature_of(plain), allow_nan=False)) == [
        "CrossSample", {"host": "base", "criterion": "divergence", "threshold": "inf", "budget": None, "seed": 0}
    ]  # fmt: skip
    under = replace(plain, under=wb.Replay())
    assert signature_of(under)[1]["under"] == [signature_of(wb.Replay())]
    assert under == replace(plain, under=(wb.Replay(),))
    assert signature_of(wb.Extrapolate(1)) == signature_of(wb.Extrapolate(1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wb.CrossSample("both", threshold=1), "`host` is 'both'; expected one of base, rlvr: CrossSample"),
        (lambda: wb.CrossSample("base", "kl", threshold=1), "`criterion` is 'kl'; expected one of divergence, entropy"),
        (lambda: wb.CrossSample("base", "dlogp"), "`threshold` and `budget`: neither given; expected one of them"),
        (lambda: wb.CrossSample(threshold=0.1, budget=0.1), "`threshold` and `budget`: both given; expected one"),
        (lambda: wb.CrossSample("base", "random", threshold=0.1), "with criterion 'random', which has no values"),
        (lambda: wb.CrossSample("base", "random"), "neither given"),
        (lambda: wb.CrossSample(budget=1.5), "`budget` is 1.5; expected a share of the tokens from 0 to 1"),
        (lambda: wb.CrossSample(budget=-0.1), "`budget` is -0.1"),
        (lambda: wb.CrossSample(budget=math.nan), "`budget` is nan; expected a number"),
        (lambda: wb.CrossSample(threshold=math.nan), "`threshold` is nan; expected a number"),
        (lambda: wb.CrossSample(threshold="0.1"), "`threshold` is '0.1'; expected a number"),
        (lambda: wb.CrossSample(budget=0.1, seed=-1), "`seed` is -1; expected a whole number"),
        (lambda: wb.CrossSample(budget=0.1, under="rlvr"), "`under` has a str; expected a Replay, a Patch"),
        (lambda: wb.CrossSample(budget=0.1, under=wb.Extrapolate(1)), "`under` has a Extrapolate"),
        (
            lambda: wb.CrossSample(budget=0.1, under=(wb.Replay(), wb.Patch())),
            "`under` has two conditions of the rlvr model; expected one a model at most",
        ),
        (lambda: wb.CrossSample(share=0.1), r"`share` is no field of CrossSample"),
        (lambda: wb.Extrapolate(math.inf), "`gamma` is inf; expected a finite number"),
        (lambda: wb.Extrapolate(math.nan), "`gamma` is nan; expected a number"),
        (lambda: wb.Extrapolate(1e9), "`gamma` is 1000000000.0; expected a finite number, at most 1e"),
        (lambda: wb.Extrapolate(True), "`gamma` is True; expected a number"),
        (lambda: wb.Extrapolate(1, where="entropy"), "`where` is 'entropy'; expected one of all, divergence, dlogp"),
        (lambda: wb.Extrapolate(1, where="divergence"), "`threshold` is None with where='divergence'"),
        (lambda: wb.Extrapolate(1, threshold=0.1), "`threshold` is 0.1 with where='all'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
