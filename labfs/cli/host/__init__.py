"""labfs as a part of the machine: what mount(8), systemd and shells call or read."""
