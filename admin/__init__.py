"""What an operator sees: HTTP API, command line, metrics."""
