"""What a host sees: NBD targets and the attach side."""
