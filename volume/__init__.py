"""Physical disk, chunklet, RAID set, logical disk, virtual volume."""
