"""What keeps a work pool's runs from starting, told before the first run: `ecs-worker doctor`.

`gather` reads facts (each question is asked once, and never waits long: `asking`), `checks` judge them without asking
anybody, and `examine` goes through all groups. `probe` launches one real task. All but the probe only read.
"""
