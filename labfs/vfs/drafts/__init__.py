"""Files whose name is not the last one yet: what tells them, how they end, and which never leave this machine."""
