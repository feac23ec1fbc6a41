"""The rights that the worker and ECS need, as IAM policies. Pure.

`rights` is their one source: from resources to statements. `iam/*.json` and `ecs-worker iam` are made of it.
"""
