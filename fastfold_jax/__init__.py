"""FastFold-JAX: AlphaFold 2 in JAX. Importing this package starts no JAX backend."""
