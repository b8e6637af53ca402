"""The kernel's door: requests of pyfuse3 ⇄ calls of `vfs`, errors ⇄ errno, and the state of the kernel's caches.

Another door is a package beside this one.
"""
