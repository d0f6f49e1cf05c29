"""One short script per figure or table of the paper: `workbench figures NAME`, or `workbench figures` for all."""
