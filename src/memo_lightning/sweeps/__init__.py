"""Studies: searches for the best settings over many training runs, with Optuna."""
