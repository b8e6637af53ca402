"""The kernel's door: requests of pyfuse3 ⇄ calls of `vfs`, errors ⇄ errno, and what the kernel believes meanwhile.

Another door is a folder beside this one.
"""
