"""Files of one record by PyCap: reads what to do as JSON, says what became of it."""

import io
import json
import sys

from redcap import Project

where, tasks = json.load(sys.stdin)
project, found = Project(where["url"], where["token"]), []
for action, name, field, data in tasks:
    slot = {"record": where["record"], "field": field}
    if action == "put":
        project.import_file(file_name=name, file_object=io.BytesIO(bytes.fromhex(data)), **slot)
    elif action == "get":
        content, headers = project.export_file(**slot)
        found.append([headers["name"].encode("latin-1").decode(), content.hex()])
    elif action == "delete":
        project.delete_file(**slot)
    else:
        (row,) = project.export_records(records=[where["record"]], fields=[field])
        found.append(row[field])
sys.stdout.write(f"\n{json.dumps(found)}\n")
