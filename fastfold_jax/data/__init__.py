"""From files to the batch: parsers, MSA assembly, sampling, padding. NumPy only, the batch pytree aside."""
