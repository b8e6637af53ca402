"""Files of one record by redcaplite: reads what to do as JSON, says what became of it."""

import contextlib
import json
import pathlib
import sys
import tempfile

from redcaplite import RedcapClient

where, tasks = json.load(sys.stdin)
client, found = RedcapClient(where["url"], where["token"]), []
for action, name, field, data in tasks:
    slot = {"record": where["record"], "field": field}
    with tempfile.TemporaryDirectory() as directory:
        if action == "put":
            path = pathlib.Path(directory, name)
            path.write_bytes(bytes.fromhex(data))
            client.import_file(str(path), **slot)
        elif action == "get":
            client.get_file(file_dictionary=directory, **slot)
            (path,) = pathlib.Path(directory).iterdir()
            found.append([path.name.encode("latin-1").decode(), path.read_bytes().hex()])
        elif action == "delete":
            with contextlib.suppress(json.JSONDecodeError):  # it takes the empty answer for a failure
                client.delete_file(**slot)
        else:
            rows = (
                client.export_records(records=[where["record"]], fields=["record_id", field])
                .fillna("")
                .to_dict("records")
            )
            found.append(rows[0][field])
sys.stdout.write(f"\n{json.dumps(found)}\n")
