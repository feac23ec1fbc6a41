"""The job's language through real workers: what users set on pools, deployments and runs, and what reaches AWS."""
