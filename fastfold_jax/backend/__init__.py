"""What is settled before JAX first uses a device: memory that it may take, where it keeps compiled programs."""
