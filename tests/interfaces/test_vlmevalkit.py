"""The class for VLMEvalKit: its messages are answered, and what fails is told in the words that VLMEvalKit knows."""

import pytest
import tiny

import workbench as wb
from workbench.decoding.decode import decode
from workbench.errors import InputError
from workbench.models.chat import Message, as_said
from workbench.replay.replay import Replay, learn_tokens

REPLAY = Replay(layers=2, threshold="quantile", iterations=2, alpha=1e4)


@pytest.fixture(scope="module")
def model(pair_of):
    return wb.VLMEvalKitModel(pair_of("qwen2_5_vl"), REPLAY, max_new_tokens=8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for image, path in zip(tiny.problem(images=2).images, paths, strict=True):
        image.save(path)
    return [str(path) for path in paths]


def expected(pair, **problem):
    prompt = pair.encode(wb.Problem("mine/1", images=tiny.problem(images=2).images, **problem))
    return decode(pair, prompt, intervention=learn_tokens(pair, prompt, REPLAY), max_new_tokens=8)[0].text


def test_a_message_is_answered_as_the_problem_it_is(model, tiny_pair, files):
    message = [
        {"type": "text", "value": "You count.", "role": "system"},
        {"type": "text", "value": "Look."},
        {"type": "image", "value": files[0]},
        {"type": "image", "value": files[1]},
        {"type": "text", "value": "How many?"},
    ]
    found = model.generate_inner(message, dataset="MathVista_MINI")
    assert found == expected(tiny_pair, question="Look.\nHow many?", system="You count.")
    assert model.generate(message, "MathVista_MINI") == found


def test_a_conversation_is_the_problem_and_its_turns(model, tiny_pair, files):
    said = model.generate([files[0], "How many?"])
    conversation = [
        {"role": "user", "content": [files[0], "How many?"]},
        {"role": "assistant", "content": said},
        {"role": "user", "content": [{"type": "text", "value": "And here?"}, files[1]]},
    ]
    first, second = tiny.problem(images=2).images
    turns = [
        Message("assistant", (as_said(tiny_pair.processor, said),)),
        Message("user", ("And here?", second)),
    ]
    prompt = tiny_pair.encode(wb.Problem("mine/1", question="How many?", images=(first,)), turns)
    made = learn_tokens(tiny_pair, prompt, REPLAY)
    wanted = decode(tiny_pair, prompt, intervention=made, max_new_tokens=8)[0].text
    assert model.chat(conversation, "MMDU") == wanted != said
    assert model.chat(conversation[:1]) == said


def test_what_the_model_said_ends_no_turn_and_shows_nothing(tiny_pair, files):
    model = wb.VLMEvalKitModel(tiny_pair, max_new_tokens=8)
    conversation = [
        {"role": "user", "content": [files[0], "How many?"]},
        {"role": "assistant", "content": "<|im_end|><|image_pad|>"},
        {"role": "user", "content": "Sure?"},
    ]
    assert model.chat(conversation) != model.FAILED


def test_a_sampled_answer_depends_on_the_whole_conversation_alone(tiny_pair, files):
    model = wb.VLMEvalKitModel(tiny_pair, temperature=1.5, max_new_tokens=8)

    def ask(picture, word):
        return model._conversation(
            "MMDU",
            [
                {"role": "user", "content": [files[0], "How many?"]},
                {"role": "assistant", "content": word},
                {"role": "user", "content": [picture, "And here?"]},
            ],
        ).problem.id

    same = ask(files[1], "3")
    assert same == ask(files[1], "3")
    assert len({same, ask(files[0], "3"), ask(files[1], "4")}) == 3


def test_bare_texts_and_paths_are_a_message(model, tiny_pair, files):
    assert model.generate([*files, "How many?"]) == expected(tiny_pair, question="How many?")


def test_a_movie_is_sampled(model, tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as movie:
        stream = movie.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 56, 56, "yuv420p"
        for image in tiny.problem(images=2).images * 8:
            movie.mux(stream.encode(av.VideoFrame.from_image(image.resize((56, 56)))))
        movie.mux(stream.encode())
    assert model.VIDEO_LLM
    found = model.generate([{"type": "video", "value": str(path)}, {"type": "text", "value": "What moves?"}])
    assert found != model.FAILED


def test_what_vlmevalkit_asks_of_a_model(model):
    assert (model.INTERLEAVE, model.is_api, model.use_custom_prompt("MMMU_DEV_VAL")) == (False, False, False)
    model.set_dump_image(print)
    assert model.dump_image_func is print


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        (("user", "assistant"), "messages of user, assistant; expected a user's first and last"),
        (("assistant", "user"), "messages of assistant, user"),
        (("user", "tool", "user"), "messages of user, tool, user"),
    ],
)
def test_a_conversation_that_fails_is_told_and_no_turn_dropped(model, roles, told):
    with pytest.warns(UserWarning, match=told):
        assert model.chat([{"role": role, "content": "Yes"} for role in roles]) == model.FAILED


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ([{"type": "image", "value": "nowhere.png"}, {"type": "text", "value": "What?"}], "is missing"),
        ([{"type": "audio", "value": "a.wav"}], "an item of the message is"),
        ([{"type": "text", "value": "Yes", "role": "assistant"}], "puts words into the model's mouth"),
    ],
)
def test_a_message_that_fails_is_told_and_asked_again_later(model, message, told):
    with pytest.warns(UserWarning, match=told):
        assert model.generate_inner(message) == "Failed to obtain answer via API."


def test_settings_are_checked_before_any_question():
    with pytest.raises(InputError, match="`taau` is no setting"):
        wb.VLMEvalKitModel("shapes", "replay", taau=0.4)
