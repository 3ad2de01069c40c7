"""planner: knows what a training job will take before it is paid for, and keeps its word."""

__version__ = "0.1.0"
