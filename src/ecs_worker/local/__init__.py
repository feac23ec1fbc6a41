"""The embedded AWS: moto, extended so that containers run as local processes. For the demo, tests and development.

moto is extended from outside, in `app`: its own code stays as it is. What the embedded AWS doesn't do: pull images,
limit memory or CPU, check health (`healthStatus` stays UNKNOWN), StartTask, ExecuteCommand, live tail, throttling.
"""
