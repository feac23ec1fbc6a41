"""ecs-worker runs Prefect flow runs as AWS ECS tasks. The way of a run is drawn in `worker.py`."""

__version__ = "0.1.0"
