"""Calls of the zoom tool as a model writes them."""

import json

from workbench.problems.zoom import Step, ZoomTool

SIZES = [(400, 300), (60, 50)]


def call(box=(10, 20, 110, 120), name="image_zoom_in_tool", **arguments) -> str:
    body = json.dumps({"name": name, "arguments": {"bbox_2d": box, **arguments}})
    return f"<tool_call>{body}</tool_call>"


def raw(box: str, more: str = "") -> str:
    return f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {box}{more}}}}}</tool_call>'


def read(text: str, **settings) -> Step:
    step = ZoomTool(**settings).read(text, SIZES)
    assert [step.answered, step.call is not None, step.error is not None].count(True) == 1
    assert text.startswith(step.text)
    return step


def box(text: str, **settings):
    found = read(text, **settings)
    assert found.call is not None, found.error
    return found.call.box
