"""The vocabulary of the OCI specifications: values and their grammar, no I/O."""
