"""`python -m ecs_worker` is the console script `ecs-worker`."""

from ecs_worker.cli import main

main()
