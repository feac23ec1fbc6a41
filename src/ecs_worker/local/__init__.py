"""The embedded AWS: moto, extended so that containers run as local processes. For the demo, tests and development."""
