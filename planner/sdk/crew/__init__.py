"""Workers that planner joins: who trains together, how that changes, and how gradients meet."""
