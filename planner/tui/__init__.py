"""The terminal app: a client of `planner.services.api.Services`, and of nothing else."""
