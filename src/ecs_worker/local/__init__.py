"""The embedded AWS: moto, extended so that containers run as local processes. For the demo, tests and development.

Everything is extended from outside, at moto's own seams; `ecs.install` is where. What it doesn't do: pull images,
limit memory or CPU, check health (`healthStatus` stays UNKNOWN), StartTask, ExecuteCommand, live tail; throttle.
"""
