"""Provenance on a page: every fact once, interventions in rows."""

from workbench.studies.provenance import provenance

PAIR = {"pair": "shapes", "base": {"id": "a", "dtype": "float32"}, "seed": None}


def test_pair_facts_stand_once_and_an_intervention_is_a_row():
    control = {"pair": "shapes", "base": {"id": "a", "dtype": "float32"}, "checkpoint": "sft"}
    conditions = {
        "low": {"select": "low", "layers": [3, 4], "tau": 0.4},
        "patch": {"select": "low", "positions": "all", "tau": 0.4},
    }
    settings = {"samples": 16, "interventions": conditions, "controls": {"sft": control}}
    shown = provenance(PAIR, {"pair": dict(PAIR), "seconds": 3.5, "settings": settings})
    assert shown.facts == [("pair", "shapes"), ("seed", "–"), ("seconds", "3.5")]
    assert shown.groups == {
        "base": [("id", "a"), ("dtype", "float32")],
        "settings": [("samples", "16"), ("controls.sft.checkpoint", "sft")],
    }
    assert shown.columns == ["layers", "positions"]
    assert shown.interventions == {"low": ["3, 4", "–"], "patch": ["–", "all"]}
    assert shown.shared == [("select", "low"), ("tau", "0.4")]


def test_a_pair_that_is_not_the_traces_is_told():
    shown = provenance(PAIR, {"pair": {**PAIR, "base": {"id": "b", "dtype": "float32"}}})
    assert shown.facts[0] == ("pair", "shapes")
    assert shown.groups["spec: pair"] == [("base.id", "b")]
