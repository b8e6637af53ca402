"""The door for programs without a mount: `labfs://site/project/record/file`, by fsspec.

fsspec runs on threads and asyncio, the core on trio. So each process has one core, in a trio thread of its own
(`core`), which is made when it is first asked, and anew after a fork; `door` is what is asked there, `files` an open
file, `filesystem` the class that fsspec finds by its entry point. Nothing here needs libfuse or pyfuse3.

No call here has a deadline of its own, since no kernel waits for it: requests have theirs, and a caller can cancel.
"""
