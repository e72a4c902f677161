"""Everything that talks to MLflow: runs, models, claims, checkpoints."""
