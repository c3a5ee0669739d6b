"""Messages, frames, the bus and its kinds."""
