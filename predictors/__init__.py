"""What a configuration would take: time, memory, whole runs, each as a distribution."""
