"""VLMEvalKit's own inference on the bundled pair, beside what the workbench answers itself: sets of one turn and of two.

Run by `tests/harness/vlmevalkit`. Ends with status 1 if an answer differs, if an intervention changes none, or if sampled answers
depend on what was asked before.
"""

import ast
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from vlmeval.dataset import build_dataset
from vlmeval.dataset.image_mt import ImageMTDataset
from vlmeval.inference import infer_data_job
from vlmeval.inference_mt import infer_data_job_mt

import workbench as wb
from workbench.conditions import default_matrix
from workbench.models.chat import Message, as_said
from workbench.models.pairs import settings_for
from workbench.replay.prepared import prepare

LIMIT, LONGEST = 12, 48
FIRST, SECOND = "WorkbenchShapes", "WorkbenchTurns"
AGAIN = "Are you sure?"
CONDITIONS = {"rlvr": "rlvr", "base": "base", "replay": "tokens, low"}


class Turns(ImageMTDataset):
    """A set of several turns with nothing to score."""

    def evaluate(self, eval_file: Any, **_: Any) -> None:
        raise NotImplementedError(f"{eval_file} is compared here")


def write(problems: list[wb.Problem], folder: Path) -> None:
    """Both sets as tables with the paths of their pictures."""
    single, turns = [], []
    for number, problem in enumerate(problems):
        path = folder / f"{number}.png"
        problem.images[0].save(path)
        row = {"index": number, "image_path": str(path)}
        single.append(row | {"question": problem.question, "answer": problem.answer})
        asked = [f"<ImageHere>{problem.question}", AGAIN]
        turns.append(row | {"question": repr(asked), "answer": repr([problem.answer, problem.answer])})
    for name, rows in ((FIRST, single), (SECOND, turns)):
        pd.DataFrame(rows).to_csv(folder / f"{name}.tsv", sep="\t", index=False)


def asked_by_kit(word: str, work: Path, keep: slice = slice(None), **how: Any) -> list[str]:
    """VLMEvalKit's predictions on the set of one turn, or on a part of it, in the order of the questions."""
    work.mkdir()
    data = build_dataset(FIRST)
    data.data = data.data.iloc[keep]
    model = wb.VLMEvalKitModel("shapes", word, max_new_tokens=LONGEST, device="cpu", **how)
    infer_data_job(model, work_dir=str(work), model_name=word, dataset=data)
    return predictions(work)


def talked_by_kit(word: str, work: Path) -> list[list[str]]:
    """Its predictions on the set of two turns."""
    work.mkdir()
    model = wb.VLMEvalKitModel("shapes", word, max_new_tokens=LONGEST, device="cpu")
    infer_data_job_mt(model, work_dir=str(work), model_name=word, dataset=Turns(SECOND))
    return [ast.literal_eval(said) for said in predictions(work)]


def predictions(work: Path) -> list[str]:
    (file,) = work.glob("*.tsv")
    return pd.read_csv(file, sep="\t", dtype=str, keep_default_na=False)["prediction"].tolist()


def answer(pair: Any, problem: wb.Problem, condition: Any, turns: tuple[Message, ...] = ()) -> str:
    """What the workbench says itself."""
    prompt = pair.encode(problem, turns)
    (made,) = prepare(condition, pair, [prompt], problems=[problem])
    model = "base" if condition == "base" else "rlvr"
    return wb.decode(pair, prompt, model=model, intervention=made, max_new_tokens=LONGEST)[0].text


def talk(pair: Any, problem: wb.Problem, condition: Any) -> list[str]:
    first = answer(pair, problem, condition)
    turns = (Message("assistant", (as_said(pair.processor, first),)), Message("user", (AGAIN,)))
    return [first, answer(pair, problem, condition, turns)]


def main(folder: Path) -> bool:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pair, agree, plain = wb.load_pair("shapes", device="cpu"), True, None
    matrix = default_matrix(pair.depth, **settings_for(pair))
    problems = wb.load_problems("shapes", limit=LIMIT)
    write(problems, folder)
    for word, title in CONDITIONS.items():
        wanted = [talk(pair, problem, matrix.get(title, title)) for problem in problems]
        found, talked = asked_by_kit(word, Path(word)), talked_by_kit(word, Path(f"{word}-turns"))
        plain = plain or wanted
        equal = sum(one == first for one, (first, _) in zip(found, wanted, strict=True))
        both = sum(one == other for one, other in zip(talked, wanted, strict=True))
        changed = sum(one != other for one, other in zip(wanted, plain, strict=True))
        print(
            f"{word:7} {equal} of {LIMIT} answers equal, {both} of {LIMIT} conversations; {changed} differ from rlvr",
            flush=True,
        )
        agree &= equal == both == LIMIT and (changed > 0) == (word != "rlvr")
    whole = asked_by_kit("rlvr", Path("sampled"), temperature=1.0)
    rest = asked_by_kit("rlvr", Path("resumed"), slice(LIMIT // 2, None), temperature=1.0)
    same = sum(one == other for one, other in zip(whole[LIMIT // 2 :], rest, strict=True))
    print(f"sampled {same} of {len(rest)} answers of a run begun later equal")
    return agree and same == len(rest)


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
