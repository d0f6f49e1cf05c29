"""Doors from outside: the command line (`cli`, `sweep_cli`, `pairs_cli`, `organism_cli`, options in `options`) and the evaluation
harnesses (`harness`, lmms-eval, VLMEvalKit). Nothing is computed here.

A new command: a function in the file of its group that checks its options before it imports torch, then calls one function
of the library.
"""
