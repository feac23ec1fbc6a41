"""ecs-worker runs Prefect flow runs as AWS ECS tasks. The way of a run is drawn in `worker.py`."""

__version__ = "0.1.0"

HEALTH_ADDRESS = "127.0.0.1:8080"
"""Where a worker tells how it is, unless told otherwise. Here, as `ecs-worker health` imports next to nothing."""
