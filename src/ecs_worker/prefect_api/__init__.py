"""The Prefect API: the only importer of httpx. Raises only PrefectError."""
