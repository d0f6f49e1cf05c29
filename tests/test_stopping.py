"""Work that is stopped from outside ends at its next step, and leaves nothing behind."""

import threading

import pytest

import workbench as wb
from workbench.models.identity import fingerprint
from workbench.stopping import Stopped, still_wanted, stoppable


def test_only_what_is_inside_is_stopped():
    event = threading.Event()
    with stoppable(event):
        still_wanted()
        event.set()
        with pytest.raises(Stopped):
            still_wanted()
    still_wanted()


def test_another_thread_goes_on():
    event, other = threading.Event(), []
    event.set()
    with stoppable(event):
        thread = threading.Thread(target=lambda: other.append(still_wanted()))
        thread.start()
        thread.join()
    assert other == [None]


@pytest.mark.parametrize("solver", ["plain", "adaptive"])
def test_replay_and_decoding_stop_and_leave_the_model(tiny_pair, solver):
    prompt, before = (
        tiny_pair.encode(wb.load_problems("shapes", limit=1)[0]),
        fingerprint(tiny_pair.rlvr.model),
    )
    plain = wb.decode(tiny_pair, prompt, max_new_tokens=4)
    event = threading.Event()
    event.set()
    with stoppable(event):
        for work in (
            lambda: wb.decode(tiny_pair, prompt, max_new_tokens=4),
            lambda: wb.learn_tokens(tiny_pair, prompt, wb.Replay(layers=1, solver=solver)),
            lambda: wb.trace(tiny_pair, [prompt]),
        ):
            with pytest.raises(Stopped):
                work()
    assert fingerprint(tiny_pair.rlvr.model) == before
    assert wb.decode(tiny_pair, prompt, max_new_tokens=4) == plain
