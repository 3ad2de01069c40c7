"""Made-up domain values and fakes that several tests share."""
