"""One module per command or small family; `planner.cli.lazy` imports them when called."""
