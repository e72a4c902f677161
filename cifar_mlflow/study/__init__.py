"""Many trials under one parent run, from the plan to the summary."""
