"""An answer depends on the question alone: not on how many were asked before it, nor in which order."""

from itertools import permutations

import pytest
import tiny

import workbench as wb

HOW = {"temperature": 1.5, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for seed in range(3):
        path = folder / f"{seed}.png"
        tiny.image(seed=seed).save(path)
        made.append([{"type": "image", "value": str(path)}, {"type": "text", "value": "How many?"}])
    return made


def ask(pair, messages, dataset="Set"):
    model = wb.VLMEvalKitModel(pair, **HOW)
    return [model.generate(message, dataset) for message in messages]


def test_sampled_answers_of_vlmevalkit_do_not_depend_on_the_order(pair_of, messages):
    """Protects from an interrupted run that goes on to other answers than one in a single piece."""
    pair = pair_of("qwen2_5_vl")
    wanted = ask(pair, messages)
    assert len({*wanted}) == 3
    for order in permutations(range(3)):
        assert ask(pair, [messages[i] for i in order]) == [wanted[i] for i in order]
    assert [*ask(pair, messages[:1]), *ask(pair, messages[1:])] == wanted  # interrupted and resumed


def test_the_picture_counts_and_its_path_does_not(pair_of, messages, tmp_path):
    """Protects from names that a moved folder of pictures would change, or that two pictures would share."""
    pair = pair_of("qwen2_5_vl")
    tiny.image(seed=1).save(tmp_path / "moved.png")
    moved = [{"type": "image", "value": str(tmp_path / "moved.png")}, messages[1][1]]
    assert ask(pair, [moved]) == ask(pair, messages)[1:2]
    assert ask(pair, [messages[1]], "Other") != ask(pair, [messages[1]])


def test_sampled_answers_of_a_list_do_not_depend_on_the_rest(pair_of):
    """Protects from draws that are shared out over a batch."""
    pair = pair_of("qwen2_5_vl")
    prompts = [pair.encode(tiny.problem(seed=seed)) for seed in range(3)]
    how = {"samples": 2, "temperature": 1.0, "max_new_tokens": 6}
    wanted = [[r.text for r in wb.decode(pair, prompt, **how)] for prompt in prompts]
    found = wb.decode_many(pair, prompts[::-1], **how, batch_size=2)[::-1]
    assert [[r.text for r in rows] for rows in found] == wanted


def test_a_text_question_of_vlmevalkit_is_answered_after_a_picture_as_before_it(pair_of, messages):
    """Protects from an offset that a picture's question leaves behind for the next one without."""
    text = [{"type": "text", "value": "How many sides has a square? Answer with a number."}]
    for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        model = wb.VLMEvalKitModel(pair_of(family), max_new_tokens=8)
        wanted = model.generate(text, "Set")
        model.generate(messages[0], "Set")
        assert model.generate(text, "Set") == wanted
