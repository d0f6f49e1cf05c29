"""lmms-eval on the bundled pair, plain, with replay and with a patch, beside what the workbench computes itself.

Run by `tests/harness/run`. Ends with status 1 if an accuracy, a response or a loss differs, or an
intervention does nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import scoring
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

import workbench as wb
from workbench.decoding.likelihoods import response_ids, response_nats
from workbench.problems.answers import verify
from workbench.replay.prepared import prepare

HERE = Path(__file__).resolve().parent
LIMIT = int(sys.argv[1]) if len(sys.argv) > 1 else 48
BATCH = 16
TASK, CHOICE = "workbench_shapes", "workbench_shapes_choice"
CONDITIONS = {"rlvr": "rlvr", "replay": "tokens, low", "patch": "patch, low", "base": "base"}


def write(path, problems):
    rows = [{"image": p.images[0], "question": p.question, "answer": p.answer} for p in problems]
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def evaluate(tasks, intervention, **how):
    """By task the accuracy that lmms-eval finds, and what it was answered, in the order of the questions."""
    found = simple_evaluate(
        model="workbench",
        model_args=f"pair=shapes,device=cpu,intervention={intervention}",
        tasks=tasks,
        batch_size=BATCH,
        task_manager=TaskManager(include_path=str(HERE), include_defaults=False),
        **how,
    )
    return {task: (accuracy(found["results"][task]), responses(found["samples"][task])) for task in tasks}


def accuracy(scores):
    return next(scores[name] for name in ("exact_match,none", "acc,none") if name in scores)


def responses(samples):
    """A list a question, of a response, or of a (loss, greedy) for each option."""
    return [[said for (said,) in sample["resps"]] for sample in sorted(samples, key=lambda s: s["doc_id"])]


def command_line(task, intervention, folder):
    """The accuracy that the command of the README reports."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "workbench", "--tasks", task]
    command += ["--model_args", f"pair=shapes,device=cpu,intervention={intervention}"]
    command += ["--include_path", str(HERE), "--batch_size", str(BATCH), "--output_path", str(folder / "out")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    results = list((folder / "out").rglob("*results.json"))
    if done.returncode or not results:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return accuracy(json.loads(results[0].read_text())["results"][task])


def answers(pair, problems, condition):
    """What the workbench says to the problems."""
    texts = []
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        prompts = [pair.encode(problem) for problem in batch]
        made = prepare(condition, pair, prompts, problems=batch, batch_size=BATCH)
        model = "base" if condition == "base" else "rlvr"
        found = wb.decode_many(
            pair, prompts, model=model, interventions=made, max_new_tokens=64, batch_size=BATCH
        )
        texts += [responses[0].text for responses in found]
    return texts


def losses(pair, problems, condition):
    """Nats of every option as the response to each problem, by the workbench."""
    rows = []
    for problem in problems:
        prompt = pair.encode(problem)
        (made,) = prepare(condition, pair, [prompt], problems=[problem])
        ids = [response_ids(pair, option) for option in scoring.options({})]
        nats = response_nats(
            pair.base if condition == "base" else pair.rlvr,
            [prompt] * len(ids),
            ids,
            pad_id=pair.pad_id,
            interventions=[made] * len(ids),
        )
        rows.append([mean * len(tokens) for mean, tokens in zip(nats, ids, strict=True)])
    return torch.tensor(rows)


def share(right):
    return sum(map(bool, right)) / len(right)


def compare(pair, problems, colored, word, condition, plain):
    """Whether lmms-eval and the workbench agree under a condition; says how far that is from the plain model."""
    texts, nats = answers(pair, problems, condition), losses(pair, colored, condition)
    plain.setdefault("texts", texts)
    plain.setdefault("nats", nats)
    own = share([verify(t, p.answer, p.verifier).correct for t, p in zip(texts, problems, strict=True)])
    picked = [scoring.COLORS[i] for i in nats.argmin(1)]
    own_picked = share([color == p.answer for color, p in zip(picked, colored, strict=True)])
    chat, simple = evaluate([TASK], word), evaluate([TASK, CHOICE], word, force_simple=True)
    agree = True
    for kind, (reported, said) in (("chat", chat[TASK]), ("simple", simple[TASK])):
        equal = sum(there == [here] for there, here in zip(said, texts, strict=True))
        print(
            f"{word:7} {kind:8} accuracy {reported:.4f} beside {own:.4f}; {equal} of {len(texts)} responses equal"
        )
        agree &= abs(reported - own) < 1e-9 and equal == len(texts)
    reported, said = simple[CHOICE]
    apart = (torch.tensor([[loss for loss, _ in row] for row in said]) - nats).abs().max().item()
    print(
        f"{word:7} choices  accuracy {reported:.4f} beside {own_picked:.4f}; losses within {apart:.1e} nats"
    )
    changed = sum(a != b for a, b in zip(texts, plain["texts"], strict=True))
    moved = (nats - plain["nats"]).abs().max().item()
    print(f"{word:7} differs from plain in {changed} responses, and by up to {moved:.2g} nats", flush=True)
    acts = word == "rlvr" or moved > 10 * max(apart, 1e-4)
    return agree and abs(reported - own_picked) < 1e-9 and apart < 1e-3 and acts


def main():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pair = wb.load_pair("shapes", device="cpu")
    matrix = pair.matrix()
    problems = wb.load_problems("shapes", limit=LIMIT)
    colored = [p for p in wb.load_problems("shapes", limit=4 * LIMIT) if p.answer in scoring.COLORS][:LIMIT]
    same, plain = True, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)  # the tasks name their data relative to where lmms-eval runs
        write(folder / "shapes.parquet", problems)
        write(folder / "choices.parquet", colored)
        print(f"lmms-eval beside the workbench, {len(problems)} questions and {len(colored)} with choices")
        for word, title in CONDITIONS.items():
            same &= compare(pair, problems, colored, word, matrix.get(title, title), plain)
        (found,) = evaluate([TASK], "replay").values()
        reported = command_line(TASK, "replay", folder)
        print(f"replay  command  accuracy {reported:.4f} beside {found[0]:.4f}")
        same &= abs(reported - found[0]) < 1e-9
    print("equal" if same else "DIFFERENT")
    sys.exit(not same)


if __name__ == "__main__":
    main()
