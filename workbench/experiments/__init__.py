"""Models that answer: ablations over conditions (`ablation`, `run_condition`), perturbed pictures (`perturbation`, `slopes`),
checkpoints of training (`emergence`, `half_times`), a visual agent (`agent`), where along responses two models diverge
(`divergence`), whether the shift follows entropy as a cause (`causes`), and how far activations drift (`drift`).

    import workbench as wb
    wb.ablate(pair, problems, {"replay": wb.Replay(layers=5, threshold="quantile")}, samples=16, keep="runs/mine").plot()
    wb.perturb(pair, problems)      # drift at low- and high-entropy cells against perplexity
    wb.causes(pair, problems)       # entropy moved at equal norm, the norm at equal entropy: does the shift follow?

**Ablation.** ``workbench ablate`` runs the paper's comparison (low and high entropy, by tokens and by patch) beside random,
all-position, mid-layer, reverse and self-smoothing controls (`default_matrix`), all on equal random draws;
``workbench study`` has it in its report (for your own pair with ``--ablate yes``). Both go on where they were interrupted.

**Emergence.** When in training does the shift appear? `follow_training` follows it, with accuracy and coverage, over
checkpoints (yours too: by step, what loads each), and times what comes first:

    written = {"contributions": wb.contributions}
    found = wb.follow_training(problems, wb.checkpoints_of(pair), further=written, batch_size=32, max_new_tokens=64)
    found.plot()
    found.plot_further()            # what each layer's heads and MLP write, checkpoint by checkpoint

## Response

Where does RLVR act while the model speaks? `divergence` draws responses (or takes yours), lets both models read them, and
compares their next-token distributions wherever a token was drawn: Jensen-Shannon divergence, KL both ways, entropies, the drawn
token's ranks and its signed ``dlogp``, all exact and in nats. Controls read the very same responses.

    from workbench.models.bundled import all_controls_of
    found = wb.divergence(pair, problems, samples=4, controls={**all_controls_of(pair), "permuted": wb.null_pair(pair)})
    found.claims                    # sparse, reranking, start and end, each with interval and verdict
    found.positions                 # a row a position; summary and tokens beside it, .columns explains all
    found.predictions(problems[0].id, position=3)     # what both would have said there
    wb.divergence(pair, problems, drawn_by="base")    # along what the base says

``workbench figures divergence`` makes figure and table. What responses look like inside
is shown by `trace` with ``responses``.

**Agent.** It looks closer before it answers (``workbench agent``), and replay or a patch is made anew at each of its turns.
Its boxes count pixels at full size, or what ``--relative-to`` says (``seen``: pixels of the image as resized; 1000: Qwen3-VL).

    scene = wb.load_problems("shapes-agent", split="test", limit=1)[0]
    transcript = wb.run_agent(pair, scene, intervention=wb.Replay(threshold="quantile"))
    transcript.save("transcript.html")   # every turn with its crop, the boxes on the images, the answer

A new experiment takes a pair and problems, keeps finished parts in a folder (`workbench.runs`), and returns a frozen dataclass
with tables; `try_replay` is the shortest to copy.
"""
