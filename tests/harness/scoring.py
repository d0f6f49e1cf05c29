"""What the tasks are made of; nothing of the workbench, as in any task of lmms-eval."""

import re

COLORS = ("red", "green", "blue", "yellow", "teal")


def visuals(doc):
    return [doc["image"].convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def exact(doc, results):
    said = re.findall(r"<answer>(.*?)</answer>", results[0], re.DOTALL)
    right = bool(said) and " ".join(said[-1].split()).lower() == " ".join(doc["answer"].split()).lower()
    return {"exact_match": float(right)}


def options(doc):
    return [f"<think> </think><answer> {color}</answer>" for color in COLORS]


def right_option(doc):
    return COLORS.index(doc["answer"])
