"""The main job and the paper's figures: `study` traces, answers and writes the report (`report`); `paper` runs the scripts of
``analyses/``; `claims` sets every claim of the paper beside what a pair shows; `compare` sets pairs side by side; `explore`
shows the lens on a page.

    import workbench as wb
    wb.study(pair, problems, out="runs/mine")
    wb.explore(pair, problems[:4]).save("lens.html")   # click a visual token, read both models at every layer, pin one

Traces can be of more problems than answers: ``wb.study(..., answers=9)``, ``--answers 9`` or ``study: {answers: 9}`` in a pair's
YAML. Report, specification and claims say of how many each number is. Progress tells of the whole study in hundredths of what it
costs by the models' sizes (`plan`).

**Several pairs.** A claim about RLVR is one about pairs, not about problems of one pair:

    comparison = wb.compare("runs/shapes", "runs/smol", "runs/grid")     # folders of studies or sweeps, no models
    comparison.pooled                                                    # what they show together; .claims: by pair
    comparison.save("compare.html")

Of a sweep each pair counts, with what its conditions answered. ``workbench compare RUN RUN ...`` does the same, and
``workbench study --pairs shapes,smol --out runs/all`` runs studies one after another (finished ones are skipped) and ends
with the page. A number that pairs have in the same words is pooled (`estimates.pool`): a random-effects mean, whose interval
is wide where pairs are few, and I², how much the pairs differ beyond their own intervals. Factors are pooled in logarithms; a
pair's standard error is half its interval's width over t of its problems. A number from fewer than 16 problems
(``estimates.ENOUGH``) is shown, and not pooled. Layers are compared by relative depth. What runs
lack, or have otherwise (problems, settings, versions, a shared base model), stands in words on the page. Seeds of one recipe
say less about RLVR than as many separate models; the page names pairs that share their base.

**The paper's figures and tables.** ``workbench figures`` runs every script in ``analyses/`` on the bundled pair (300 test
problems; ``readings`` with ``--limit 64``) and writes ``figures/``: a page, PNG, SVG, table and
manifest each, with the paper's claims and whether they hold. What is up to date is skipped; finished parts are kept in
``runs/cache``. One alone: ``workbench figures table1_patching --limit 64``; on your own pair with ``--base``, ``--rlvr``,
``--problems``, or from a run that exists with ``--run runs/study-...``.

| script | what it reproduces |
|---|---|
| ``top_predictions``, ``entropy_shift``, ``perturbation`` | the analysis of section 3 |
| ``null_models`` | the same beside random weight changes of RLVR's size, and training without RL |
| ``entropy_or_proxy`` | whether entropy is linked with the shift beside residual norm, attention and place, or for them |
| ``table1_patching``, ``tables2_4_replay`` | Tables 1 to 4, beside the published numbers |
| ``table5_grid`` | Table 5: threshold x step size, layers, iterations (on the validation split) |
| ``figure6_pass_at_k`` | Figure 6: Pass@K and coverage, with replay |
| ``coverage`` | Pass@1 and Pass@K of base, RLVR model and the trainings beside it |
| ``change_nulls``, ``readings``, ``causes`` | the shift against other nulls, through other lenses, after one change |
| ``response_shift`` | whether low-entropy positions shift more where the RLVR model speaks |
| ``divergence``, ``cross_sampling``, ``extrapolation`` | along responses: where models part, whose tokens count, beyond RLVR |
| ``scenarios`` | accuracy by family on boards, on videos and as a visual agent, with replay and patches |
| ``paper_plan`` | what the whole paper would cost: cells, GPU-hours, memory, from configs |
| ``attribution`` | beyond the paper: which heads and MLPs write the shift at low-entropy cells |
| ``amortised_replay`` | tokens predicted in one pass against optimised ones (the paper's future work) |
| ``replay_power`` | the claims about replay at settings chosen on validation, with the effect that the design would have found |
| ``alternatives``, ``radar``, ``cost`` | replay against its alternatives, by family, and what it costs |
| ``emergence`` | beyond the paper: shift, accuracy and coverage over the checkpoints of RL, what comes first, two controls |
| ``weight_changes`` | norm and effective rank of the weight changes, and whether they tell where outputs change |

A new script of a figure: a module in ``analyses/`` with an ``analyse(given)`` that returns a `paper.Finding`;
``analyses/null_models.py`` is the shortest to copy.
"""
