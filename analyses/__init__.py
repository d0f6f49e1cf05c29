"""One short script per figure or table of the paper."""
