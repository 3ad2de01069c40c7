"""What planner does: estimate, launch, supervise, compare. Used by the CLI and the app alike."""
