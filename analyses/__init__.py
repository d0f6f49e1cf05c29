"""One short script per figure or table of the paper: `python -m analyses.NAME`, or `workbench figures` for all."""
