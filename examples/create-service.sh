#!/bin/sh
# The worker as an ECS service: one task, which ECS replaces when it ends. Fill in your own cluster and subnets first.
set -eu
cd "$(dirname "$0")"
aws ecs register-task-definition --cli-input-json file://task-definition.json
aws ecs create-service \
    --cluster my-cluster \
    --service-name ecs-worker \
    --task-definition ecs-worker \
    --desired-count 1 \
    --launch-type FARGATE \
    --network-configuration 'awsvpcConfiguration={subnets=[subnet-0123456789abcdef0],assignPublicIp=ENABLED}'
