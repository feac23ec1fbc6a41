"""The facts that checks judge, read from Prefect and AWS. Nothing is judged here, and nothing is changed."""
