"""The way of a flow run, one module for each step. `worker.py` draws it."""
