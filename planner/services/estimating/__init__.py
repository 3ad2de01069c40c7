"""From a job file to options: data, slices, probes, evidence, the estimate."""
