"""Files of one sample by genologics: reads what to do as JSON, says what became of it."""

import json
import os
import pathlib
import sys
import tempfile

from genologics.entities import Sample
from genologics.lims import Lims

where, tasks = json.load(sys.stdin)
found = []
for action, name, _, data in tasks:
    lims = Lims(where["url"], where["username"], where["password"])  # it remembers what it saw
    sample = Sample(lims, id=where["sample"])
    held = {os.path.basename(file.original_location): file for file in sample.files}
    if action == "put":
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, name)
            path.write_bytes(bytes.fromhex(data))
            if name in held:
                lims.delete(held[name].uri)
            lims.upload_new_file(sample, str(path))
    elif action == "get":
        content = lims.get_file_contents(id=held[name].id)
        found.append([name, content.encode().hex() if isinstance(content, str) else content.read().hex()])
    elif action == "delete":
        lims.delete(held[name].uri)
    else:
        found.append(name if name in held else "")
sys.stdout.write(f"\n{json.dumps(found)}\n")
