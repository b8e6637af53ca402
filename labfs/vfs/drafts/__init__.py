"""Files whose name is not final yet: how they are recognized, how they end, and which never leave this machine."""
