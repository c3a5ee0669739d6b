"""One process: configuration, cache, journal, I/O path, control loop, daemon."""
