"""What the ODM stand-in does on request, one module a kind of thing."""
