"""What keeps the worker operable: logging, heartbeat, health and metrics."""
