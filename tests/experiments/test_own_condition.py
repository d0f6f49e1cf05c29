"""An intervention that the package does not know (`zeroed`) works wherever those that it knows work."""

import pytest
import tiny
from zeroed import Zeroed

import workbench as wb
from workbench.errors import InputError


def test_ablate_runs_it_under_its_title(tiny_pair):
    found = wb.ablate(tiny_pair, [tiny.problem()], Zeroed(1), samples=1, max_new_tokens=2, resamples=5)
    for table in (found.responses, found.summary):
        assert set(table["intervention"]) == {"base", "rlvr", "zeroed"}
    drift = found.drift[found.drift["intervention"] == "zeroed"]
    assert (drift["kl"] != drift["before"]).any()
    assert found.settings["interventions"]["zeroed"]["layer"] == 1
    assert "zeroed" in found.plot().to_json()


def test_the_agent_makes_it_anew_at_every_turn(tiny_pair):
    problem = tiny.problem(images=1, system="Look.")
    transcript = wb.run_agent(tiny_pair, problem, intervention=Zeroed(1), turns=2, max_new_tokens=2)
    assert transcript.turns
    assert transcript.settings["intervention"][0] == "Zeroed"


def test_what_is_registered_for_nothing_is_refused(tiny_pair):
    class Unknown(Zeroed):
        pass

    wb.prepare(Unknown(1), tiny_pair, [])  # what is registered for its parent does
    with pytest.raises(InputError, match=r"@wb\.prepare\.register"):
        wb.prepare(3.0, tiny_pair, [])
