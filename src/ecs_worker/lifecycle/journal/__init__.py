"""What is told of runs, and where: their logs, Prefect's events, the worker's log."""
