"""What lies below the blocks in memory: this machine's disk, and what machines share."""
