"""Train one trunk for both tasks."""
