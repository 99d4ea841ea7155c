"""Memory that fits, chosen by the program: parts of a JAX function run chunk by chunk until it meets a budget."""
