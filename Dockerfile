# Built from the repository's top: docker build --tag ecs-worker .
FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY examples examples
RUN python -m venv /opt/ecs-worker \
    && /opt/ecs-worker/bin/pip install --no-cache-dir --constraint constraints.txt . \
    && /opt/ecs-worker/bin/pip uninstall --yes pip

FROM python:3.12-slim
LABEL org.opencontainers.image.title="ecs-worker" \
      org.opencontainers.image.description="Runs Prefect flow runs as AWS ECS tasks" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/ecs-worker /opt/ecs-worker
RUN useradd --create-home --uid 10001 ecs-worker
USER ecs-worker
WORKDIR /home/ecs-worker
ENV PATH=/opt/ecs-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Answers only with --with-healthcheck (or ECS_WORKER_WITH_HEALTHCHECK=true).
ENV ECS_WORKER_WITH_HEALTHCHECK=true
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["ecs-worker", "health"]
ENTRYPOINT ["ecs-worker"]
CMD ["start"]
