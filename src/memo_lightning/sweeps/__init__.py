"""Studies: many trainings that search for the best settings, with Optuna."""
