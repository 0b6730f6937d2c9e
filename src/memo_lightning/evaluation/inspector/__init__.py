"""The inspector: one trial as a page to scrub through, in one file that needs nothing else."""
