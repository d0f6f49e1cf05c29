"""The live bench: select cells of a prompt, act on them, and see at once how the answer of both models changes.

    import workbench as wb
    bench = wb.bench(pair, problem)  # or wb.bench(pair, "How many circles?", picture="board.png")
    bench                            # in a notebook: the page itself

In JupyterLab, VS Code, marimo and Colab `bench.bench` shows itself through anywidget (extra ``notebooks``); elsewhere, and in
a saved file, it is the same page without a kernel, where what computes is greyed out. ``workbench bench`` serves it as a page
of its own (extra ``bench``), on this machine alone and behind a token; pictures that are given to it stay in that process.

**Select.** `Bench.selection` is a bool mask (layers, positions) that you read and set; `session.Bench.select` takes positions,
a rectangle, a word, a kind of token, a stratum of the base's entropy, and layers (`choose.Ground.choose`). As spans it is a
`Mask`, which any intervention takes as ``cells``:

    bench.select(rectangle=(0, 0, 1, 3), layers=range(3, 6))
    bench.select(word="crosses", layers=range(3, 6), how="add")
    bench.invert()
    bench.mask                       # Mask(dict.fromkeys((3, 4, 5), [(0, 4), ...]))

**Act.** Greedy answers of base, RLVR and the model with the action stand side by side; samples of all three on request:

    bench.patch()                    # the base's activations in RLVR; patch("rlvr") the other way round
    bench.replay(iterations=10)      # tokens learnt at the selected positions
    bench.scale(0.5)                 # 0 takes the cells away
    bench.remove(layer=3, head=1)    # a head, or without ``head`` the MLP; the last layer's moves the first token alone
    bench.act(wb.Extrapolate(0.5))   # any condition of the workbench, or your own
    bench.go_on("base", 3, token)    # another token, and on from there
    bench.sample(8)                  # `trial.Trial.samples`, besides the greedy answers
    bench.noise()                    # the lens of the action beside matched noise, for the overlay "KL over noise"
    bench.cancel()                   # from another cell or thread: it ends within a second

Each returns a `trial.Trial`: the answers, which tokens changed, whether they are right, how far the lens moved (nats), and the
answers token by token with their divergence. `Bench.undo`, `Bench.redo` and `Bench.show` go through them; `Bench.code` is the
shown one as Python, and `Bench.code` with "patch" or "replay" the selection as a condition, not yet tried; `Bench.save`
writes it as a page or as a JSON file that ``wb.bench(pair, reopen=...)`` takes up again, `Bench.to_dataframe` is the list of
what was tried. `Bench.play` opens one of the prepared `cases.cases`. ``wb.bench(pair, problem, turns=...)`` opens a turn of an
agent (`workbench.experiments.agent.given`): its calls and crops are part of the prompt.

**Overlays.** Over the picture and under the words: KL, KL over that of matched noise (``ratio`` of the tables), both entropies
and their change, whether the first prediction changed, and after a replay or an adapter the norm of the token learnt at each
position.

**How it works.** One thread of the process works for all benches (`worker`), so that two benches, or a bench and a cell beside
it, take turns; loops ask between two steps whether they are still wanted (`workbench.stopping`). A page asks the kernel for a
sign of life with every message: where a kernel was restarted it says so, and running the cell again gives a bench that works. A
tab that is closed ends nothing: what was begun goes on in the kernel, and is there when the bench is shown again. A page sends
short messages (`widget.DOES`) and gets small packed tables back (`state`), less than 1 MB an action. Conditions are written as
JSON and as code by `actions`; nothing that a page or a file says is ever evaluated.

A new action: a condition registered with `prepare`, a line in ``actions.ACTS`` and ``KINDS``, and a button in
``views/templates/bench_parts.js``.
"""

from workbench import lazy_names

_HOME = {"Bench": "session", "Trial": "trial", "Mask": "mask"}

__all__ = ["Bench", "Mask", "Trial"]
__getattr__, __dir__ = lazy_names(__name__, _HOME)
