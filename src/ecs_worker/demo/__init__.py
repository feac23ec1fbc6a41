"""The demo: a real Prefect server, the embedded AWS, and the worker doing its main job between them.

- `outcome` says what is to come of each run, and judges what came. Pure.
- `processes` starts the children: the Prefect server and the worker.
- `stage` sets it all up, triggers the runs and looks at them.

`cli/demo.py` shows it.
"""
