"""The zoom tool against whatever a model may emit: a call, an answer or a sentence, never an exception."""

import time

import pytest
import tiny
from zoom_calls import SIZES, box, call, raw, read

from workbench.errors import InputError
from workbench.problems.zoom import Call, ZoomTool


def test_boxes_of_the_image_as_it_was_seen():
    tool, seen = ZoomTool(relative_to="seen"), [(200, 100), (60, 50)]
    assert tool.read(call((100, 50, 200, 100)), SIZES, seen).call.box == (200, 150, 400, 300)
    assert tool.read(call((1, 2, 41, 42), image_index=1), SIZES, seen).call.box == (1, 2, 41, 42)
    error = tool.read(call((200, 0, 300, 90)), SIZES, seen).error
    assert error == "`bbox_2d` lies outside the image, which is 200 pixels wide and 100 high."
    assert "[x1, y1, x2, y2] in pixels" in tool.instructions
    assert ZoomTool().read(call((100, 50, 200, 100)), SIZES, seen).call.box == (100, 50, 200, 100)


def test_a_call():
    text = f"<think>small</think>\n{call(label='the sign')}\n"
    assert read(text).call == Call(0, (10, 20, 110, 120), (10, 20, 110, 120), "the sign")
    assert read(text).text == text[:-1]  # what comes after the first closing tag does not count
    assert read(call([1, 2, 41, 42], image_index=1)).call == Call(1, (1, 2, 41, 42), (1, 2, 41, 42))
    assert read("\n<tool_call>\n" + call()[11:-12] + "\n</tool_call>").call
    assert read("<think>3</think><answer>3</answer> and more").answered


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "neither a call nor an answer"),
        ("I would zoom in.", "neither a call nor an answer"),
        ("\x00\ufffd\ud800 \u202e<\u200btool_call>", "neither a call nor an answer"),
        ("<tool_call>", "<tool_call> without </tool_call> after it"),
        (call()[:-1], "<tool_call> without </tool_call> after it"),
        ("<answer>3", "<answer> without </answer> after it"),
        ("3</answer>", "</answer> without <answer> before it"),
        ("</tool_call>" + call(), "</tool_call> without <tool_call> before it"),
        ("<tool_call></tool_call>", "is not JSON"),
        ("<tool_call>image_zoom_in_tool(bbox_2d=[1, 2, 3, 4])</tool_call>", "is not JSON"),
        ("<tool_call>__import__('os').system('touch hacked')</tool_call>", "is not JSON"),
        ("<tool_call>{'name': 'image_zoom_in_tool'}</tool_call>", "is not JSON (Expecting property name"),
        (call().replace("</tool_call>", "} trailing</tool_call>"), "is not JSON (Extra data"),
        ("<tool_call>[1, 2, 3, 4]</tool_call>", "the call is a list of 4; it must be a JSON object"),
        ("<tool_call>null</tool_call>", "the call is None; it must be a JSON object"),
        ('<tool_call>{"name": "image_zoom_in_tool"}</tool_call>', "the call has no 'arguments'"),
        ('<tool_call>{"name": "image_zoom_in_tool", "arguments": "{}"}</tool_call>', "`arguments` is '{}'"),
        ('<tool_call>{"name": "image_zoom_in_tool", "arguments": {}}</tool_call>', "has no 'bbox_2d'"),
        (call(name="python"), "there is no tool 'python'; the only one is 'image_zoom_in_tool'"),
        (call(name="image_zоom_in_tool"), "there is no tool"),  # a Cyrillic o
        (call(name=["image_zoom_in_tool"]), "there is no tool a list of 1"),
        (call(zoom=3), "`arguments` has 'zoom'; known are bbox_2d, image_index, label"),
        (raw("[1, 2, 30, 40]", ', "bbox_2d": [5, 6, 7, 8]'), "has a key twice"),
        (raw("[NaN, 0, 10, 10]"), "NaN is not a number that JSON knows"),
        (raw("[0, 0, Infinity, 10]"), "Infinity is not a number that JSON knows"),
        (raw("[0, 0, -Infinity, 10]"), "-Infinity is not a number that JSON knows"),
        (raw("[0, 0, 1e999, 10]"), "holds inf; it must be a list of four finite numbers"),
        (raw('["0", "0", "10", "10"]'), "holds '0'; it must be a list of four finite numbers"),
        (raw("[true, 0, 10, 10]"), "holds True"),
        (raw("[null, 0, 10, 10]"), "holds None"),
        (raw("[[0, 0, 10, 10]]"), "is a list of 1; it must be a list of four numbers"),
        (raw("[[0], [0], [10], [10]]"), "holds a list of 1"),
        (raw("[0, 0, 10]"), "is a list of 3; it must be a list of four numbers"),
        (raw("[0, 0, 10, 10, 10]"), "is a list of 5"),
        (raw('{"x1": 0}'), "is an object; it must be a list of four numbers"),
        (raw("[１, ２, ３０, ４０]"), "is not JSON"),  # full-width digits
        (raw("[0x1, 2, 30, 40]"), "is not JSON"),
        (raw("[10, 10, 10, 50]"), "must have x1 < x2 and y1 < y2"),
        (raw("[50, 50, 10, 10]"), "must have x1 < x2 and y1 < y2"),
        (raw("[500, 0, 600, 10]"), "lies outside the image, which is 400 pixels wide and 300 high"),
        (raw("[-90, -90, -10, -10]"), "lies outside the image"),
        (raw("[-90, -90, 0, 0]"), "lies outside the image"),
        (raw("[" + "9" * 3000 + ", 0, " + "9" * 900 + ", 5]"), "must have x1 < x2"),
        (raw("[0, 0, " + "9" * 5000 + ", 5]"), "at most 4096 are read"),
        ("<tool_call>" + "[" * 4000 + "</tool_call>", ("nested too deeply", "is not JSON")),
        ("<tool_call>" + '{"a":' * 600 + "1" + "}" * 600 + "</tool_call>", ("nested", "the call has no")),
        (call(label=7), "`label` is 7; it must be a text"),
        (call(image_index=2), "`image_index` is 2; there are images 0 to 1"),
        (call(image_index=-1), "`image_index` is -1"),
        (call(image_index=True), "`image_index` is True"),
        (call(image_index=1.0), "`image_index` is 1.0"),
        (call(image_index=10**400), "`image_index` is a very large number"),
        (call(label="</tool_call>"), "is not JSON (Unterminated string"),
        (raw("[1, 2, 30, 40]", ', "label": "a\nb"'), "is not JSON (Invalid control character"),
        ("<tool_call><tool_call>{}</tool_call></tool_call>", "the call has no"),
    ],
)
def test_adversarial_responses(text, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step = read(text)
    errors = (error,) if isinstance(error, str) else error
    assert step.error is not None
    assert any(part in step.error for part in errors), step.error
    assert len(step.error) < 300
    step.error.encode()
    assert not list(tmp_path.iterdir())


def test_the_limit_on_digits_is_pythons_own():
    text = raw("[0, 0, " + "9" * 5000 + ", 5]")
    assert "a number that is too long" in (read(text, max_call=10_000).error or "")
    assert box(raw("[0, 0, " + "9" * 4000 + ", 50]"), max_call=10_000) == (0, 0, 400, 50)


def test_deep_nesting_of_any_length():
    for depth in (10, 900, 1000, 5000, 100_000):
        for body in ("[" * depth, "[" * depth + "]" * depth, '{"a":' * depth):
            assert read(f"<tool_call>{body}</tool_call>", max_call=10**7).error


def test_two_calls_and_an_answer_before_or_after_one():
    first, second = call((0, 0, 50, 50)), call((50, 50, 100, 100))
    assert box(first + second) == (0, 0, 50, 50)
    assert read(f"<answer>3</answer>{first}").answered
    assert box(f"{first}<answer>3</answer>") == (0, 0, 50, 50)
    assert box(f"<answer>3{first}</answer>") == (0, 0, 50, 50)  # the call closes first
    assert box(f"<tool_call>broken {first}") == (0, 0, 50, 50)  # from the last opening tag


def test_boxes_are_clipped_to_the_image():
    assert box(raw("[-50, -1e300, 1e308, 99999999999999999999]")) == (0, 0, 400, 300)
    assert box(raw("[350.2, 250.7, 1000, 1000]")) == (350, 250, 400, 300)
    assert box(raw("[" + "-" + "9" * 400 + ", 0, " + "9" * 400 + ", 100]")) == (0, 0, 400, 100)
    assert box(call((0, 0, 10**9, 10**9), image_index=1)) == (0, 0, 60, 50)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ((100, 100, 102, 102), (87, 87, 115, 115)),  # around its middle
        ((0, 0, 1, 1), (0, 0, 28, 28)),  # inside the image
        ((399, 299, 400, 300), (372, 272, 400, 300)),
        ((10, 100, 310, 101), (10, 86, 310, 114)),  # one side alone
        ((100, 100, 100.001, 100.001), (86, 86, 114, 114)),  # less than a pixel
    ],
)
def test_small_boxes_grow(asked, wanted):
    assert box(call(asked)) == wanted
    found = box(call(asked), min_side=1)
    assert found[0] <= asked[0] < asked[2] <= found[2]


def test_no_crop_is_smaller_than_the_image_allows_nor_a_sliver():
    tool = ZoomTool()
    tiny_image = tool.read(call((3, 3, 5, 5)), [(10, 10)]).call
    assert tiny_image is not None
    assert tiny_image.box == (0, 0, 10, 10)
    long = ZoomTool(min_side=1).read(call((0, 500, 8000, 501)), [(8000, 1000)]).call
    assert long is not None
    assert long.box == (0, 460, 8000, 540)


def test_relative_boxes_only_if_configured():
    assert box(call((0, 0, 0.5, 0.5)), min_side=1) == (0, 0, 1, 1)  # half a pixel
    assert box(call((0, 0, 0.5, 0.5)), relative_to=1) == (0, 0, 200, 150)
    assert box(call((500, 0, 1000, 500)), relative_to=1000) == (200, 0, 400, 150)
    error = read(call((1100, 0, 1200, 500)), relative_to=1000).error
    assert error == "`bbox_2d` lies outside the image, which is 1000 wide and high."
    assert "1/1000" in ZoomTool(relative_to=1000).instructions
    assert "pixels" in ZoomTool().instructions


def test_ten_megabytes_are_read_at_once():
    bodies = ["x" * 10**7, "<tool_call>" * 900_000, "<tool_call>" + "[" * 10**7 + "</tool_call>", "<" * 10**7]
    bodies += ["x" * 10**7 + call(), call() + "</tool_call>" * 800_000, "9" * 10**7 + "</answer>"]
    begun = time.perf_counter()
    steps = [read(body) for body in bodies]
    assert time.perf_counter() - begun < 60  # not the square of ten million; on a quiet machine under 3
    assert [step.call is not None for step in steps] == [False] * 4 + [True, True, False]


def test_labels_can_be_written_whatever_they_hold():
    halves = read(raw("[0, 0, 50, 50]", ', "label": "\\ud800<b>\\u0000"')).call
    assert halves is not None
    assert halves.label == "?<b>\x00"
    long = read(call(label="x" * 1000)).call
    assert long is not None
    assert len(long.label) == 200
    assert len(read(call(name="\ud800" * 500)).error or "") < 500
    (read(call(name="\ud800")).error or "").encode()


def test_crops_and_replies():
    image, tool = tiny.image(60, 50), ZoomTool()
    step = tool.read(call([1, 2, 41, 42], image_index=1), SIZES)
    assert step.call is not None
    crop = tool.crop(step.call, [tiny.image(400, 300), image])
    assert crop.tobytes() == image.crop((1, 2, 41, 42)).tobytes()
    before, shown, after = tool.reply(step, crop, 2)
    assert shown is crop
    assert before == "<tool_response>\nImage 2, cut out of image 1, 40 x 40 pixels:\n"
    assert after == "\n</tool_response>"
    assert tool.reply(tool.read("", SIZES), None, 2)[0].startswith("<tool_response>\nError: neither a call")


def test_the_instructions_hold_an_example_that_is_read():
    tool = ZoomTool(name="look")
    example = tool.instructions.split("<tool_call>")[1].split("</tool_call>")[0]
    assert tool.read(f"<tool_call>{example}</tool_call>", SIZES).call


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_side": 0}, "`min_side` is 0; expected a whole number of at least 1"),
        ({"max_call": 2.5}, "`max_call` is 2.5"),
        ({"relative_to": 0}, "`relative_to` is 0; expected None for pixels"),
        ({"relative_to": float("nan")}, "`relative_to` is nan"),
        (
            {"relative_to": "sen"},
            "`relative_to` is 'sen'; expected None for pixels, 'seen' for pixels of the",
        ),
        ({"relative_to": True}, "`relative_to` is True"),
        ({"name": 3}, "`name` is 3; expected a tool's name"),
        ({"name": " "}, "`name` is ' '"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError) as refused:
        ZoomTool(**settings)
    assert message in str(refused.value)
    assert "ZoomTool(" in str(refused.value)
