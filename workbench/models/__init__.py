"""Two models side by side: what they are made of, whether they can be compared, and how prompts reach them.

`load_pair` (`pairs`) loads a preset (`presets`, `pairs.yaml`) or two checkpoints (`checkpoints`), refuses what can't be
compared (`preflight`), and finds layers, norm and unembedding of each (`anatomy`). `pair.encode` makes an
`EncodedPrompt` (`prompts`): token ids, their kinds, and where in the picture each visual token lies (`layouts`, `tilings`).

    import workbench as wb
    prompt = wb.load_pair("shapes").encode(wb.load_problems("shapes", limit=1)[0])

A new family: its layout in `layouts`, its picture cutting in `tilings`, a tiny config in `tests/support/tiny.py`.
"""
