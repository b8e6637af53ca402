"""Files of one sample by s4-clarity: reads what to do as JSON, says what became of it."""

import io
import json
import sys

from s4.clarity import LIMS
from s4.clarity.file import File

where, tasks = json.load(sys.stdin)
found = []
for action, name, _, data in tasks:
    lims = LIMS(where["url"] + "/api/v2", where["username"], where["password"])  # it remembers what it saw
    sample = lims.samples.from_limsid(where["sample"])
    held = {file.name: file for file in lims.files.from_link_nodes(sample.xml_root.findall(File.UNIVERSAL_TAG))}
    if action == "put":
        file = held.get(name) or File.new_empty(sample, name=name)
        file.mode = "wb"
        file.truncate()  # else only the beginning is written over
        file.write(bytes.fromhex(data))
        file.close()
    elif action == "get":
        sink = io.BytesIO()
        held[name].mode = "rb"
        held[name].pipe_to(sink)
        found.append([name, sink.getvalue().hex()])
    elif action == "delete":
        lims.files.delete(held[name])
    else:
        found.append(name if name in held else "")
sys.stdout.write(f"\n{json.dumps(found)}\n")
