"""The bench: prefect-aws's ECS worker and ecs-worker side by side, in one run, under the same load. See README.md."""
