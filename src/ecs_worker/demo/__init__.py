"""The demo: a real Prefect server, the embedded AWS, and the worker doing its main job between them.

- `outcome` says how each run should end, and judges how it did. Pure.
- `processes` starts the children: the Prefect server and the worker.
- `stage` sets it all up, triggers the runs and looks at them.

`cli/demo.py` shows it.
"""
