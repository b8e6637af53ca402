"""A project by fs_basespace, the vendor's file system of PyFilesystem2: walks, downloads, prints as JSON."""

import hashlib
import io
import json
import sys

from fs import errors
from fs_basespace import BASESPACEFS

where = json.load(sys.stdin)
drive = BASESPACEFS(client_id="x", client_secret="x", access_token=where["token"], basespace_server=where["url"])
found = {}


def listed(path):
    """Ids and the names behind them."""
    return {info.name: info.raw["basic"]["alias"] for info in drive.scandir(path)}


def fetched(path):
    into = io.BytesIO()
    try:
        drive.download(path, into)
    except errors.NoURL:
        return "archived"
    return hashlib.sha256(into.getvalue()).hexdigest()


project = next(number for number, name in listed("/projects").items() if name == where["project"])
for kind in ("appresults", "samples"):
    for number, name in listed(f"/projects/{project}/{kind}").items():
        at = f"/projects/{project}/{kind}/{number}/files"
        found[f"{kind}/{name}"] = sorted(fetched(f"{at}/{file}") for file in listed(at))
for kind in ("biosamples", "appsessions"):
    for number, name in listed(f"/projects/{project}/{kind}").items():
        for dataset, title in listed(f"/projects/{project}/{kind}/{number}/datasets").items():
            at = f"/projects/{project}/{kind}/{number}/datasets/{dataset}/sequenced files"
            found[f"{kind}/{name}/{title}"] = sorted(fetched(f"{at}/{file}") for file in listed(at))
sys.stdout.write(f"\n{json.dumps(found)}\n")
