"""Questions with pictures or movies, where they come from, and how answers are judged.

`load_problems` reads a generated set (`shapes`, `shapes_video`, `shapes_agent`; `cards`; `sums`, text alone), a published set by
name (``problems.yaml``, read by `presets`), a file, a folder or a hub data set (`sources`, `from_rows`). A `Problem` holds its
pictures, its answer and the verifier that judges responses. `answers` is the grammar of judging: where an answer stands
(`answer_place`), of what kind it is, how it is compared (`answer_choice`, `answer_numbers`, `answer_exact`, `answer_math`).

    import workbench as wb
    wb.load_problems("shapes", split="test", limit=4)
    wb.load_problems("easy-vqa", limit=64)      # 64 x 64 pictures of one shape (pip install easy-vqa); shape, color, yes-no
    wb.load_problems("mathvista", limit=64)     # a set of the paper; says where to get its file
    wb.load_problems("math-500", limit=64)      # mathematics in text, from the hub's cache; gsm8k, aime24, aime25, amc23 too
    wb.load_problems("MathVista_MINI.tsv")      # VLMEvalKit's format; JSONL, .json, .parquet, a folder, hf:owner/name too
    wb.load_problems("clips.jsonl", frames=8)   # a row's ``video`` is a path; ``--frames 8`` on the command line
    wb.load_problems("own.jsonl", columns={"image": ["left", "right"]}).told  # what was read, what was left out and why
    from workbench.problems.answers import verify
    verify("So it is 12 cm.", "12", "numeric")  # Outcome(correct=True, answer='So it is 12 cm.', how='whole response, ...')
    wb.Problem("mine/1", "What moves?", video=wb.sample_frames("clip.mp4", 16))  # movie files: pip install -e ".[video]"

``workbench problems check FILE`` shows a file as a model will see it; ``workbench rejudge RUN`` judges kept responses anew.
`zoom` is the tool with which an agent looks closer (`ZoomTool`).

A new published set is an entry in ``problems.yaml``; a new generated one a module like `shapes`, named in `load_problems`.
"""
