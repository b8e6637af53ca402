"""Projects, biosamples, datasets and their files by bssh_sdk_2, the vendor's client of API version 2: prints as JSON."""

import hashlib
import json
import sys
from urllib.request import ProxyHandler, build_opener

import bssh_sdk_2

where = json.load(sys.stdin)
configuration = bssh_sdk_2.Configuration()
configuration.access_token = where["token"]
configuration.host = f"{where['url'].rstrip('/')}/v2"
api = bssh_sdk_2.BasespaceApi(bssh_sdk_2.ApiClient(configuration))
fetch = build_opener(ProxyHandler({})).open


def pages(call, step, **query):
    """All items of a list, `step` at a time."""
    items = []
    while True:
        found = call(offset=len(items), limit=step, **query)
        items += found.items
        if len(items) >= found.paging.total_count or not found.items:
            return items


def files(dataset):
    flags = dict.fromkeys(
        ("excludevcfindexfolder", "excludebamcoveragefolder", "excludesystemfolder", "excludeemptyfiles", "turbomode"),
        False,
    )
    return pages(api.get_v2_datasets_id_files, 1, id=dataset, filehrefcontentresolution=True, **flags)


found = {"biosamples": {}, "datasets": {}, "sessions": []}
for sample in pages(api.get_v2_biosamples, 1, projectid=[where["project"]], sortby="Id"):
    held = pages(api.get_v2_datasets, 1, inputbiosamples=[sample.id], include=["properties"])
    found["biosamples"][sample.bio_sample_name] = sorted(dataset.name for dataset in held)
for dataset in pages(api.get_v2_projects_id_datasets, 2, id=where["project"]):
    again = api.get_v2_datasets_id(id=dataset.id)
    assert (again.id, again.total_size, again.dataset_type.id) == (
        dataset.id,
        dataset.total_size,
        dataset.dataset_type.id,
    )
    held = found["datasets"].setdefault(dataset.name, [])
    for file in files(dataset.id):
        data = fetch(file.href_content).read()
        assert len(data) == file.size
        held.append([file.path, hashlib.sha256(data).hexdigest()])
for session in pages(api.get_v2_appsessions, 3):
    found["sessions"].append([session.name, session.execution_status])
sys.stdout.write(f"\n{json.dumps(found)}\n")
