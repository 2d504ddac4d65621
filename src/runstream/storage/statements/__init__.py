"""The statements about runs and their attempts. They are built once: building one costs more than running it."""
