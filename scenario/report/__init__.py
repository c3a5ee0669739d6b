"""Reports of scenario runs: the record as JSON, the figures in it, its charts, its page."""
