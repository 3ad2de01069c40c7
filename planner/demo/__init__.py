"""The recorded session behind `planner --demo`, and how to make a new one."""
