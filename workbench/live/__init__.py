"""The live bench: select cells of a prompt, act on them, and see both models answer."""
