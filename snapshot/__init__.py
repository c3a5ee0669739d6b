"""Exception tables, the snapshot tree, copy-on-write, differences."""
