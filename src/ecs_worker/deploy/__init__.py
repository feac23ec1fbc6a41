"""The worker as an ECS service of its own CloudFormation stack."""
