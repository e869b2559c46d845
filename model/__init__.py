"""The networks and the cohorts they learn from; of `tim_search`, only `types` is imported here.

Nothing here needs Ray, MLflow or pydantic, so a bare GPU machine can train packs with it.
"""
