"""The inspector: a page to scrub through one trial, in one self-contained file."""
