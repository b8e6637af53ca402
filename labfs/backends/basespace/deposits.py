"""Files of datasets, which version 2 of the API takes: put into the store, and reported to the service.

Facts used here, with their source (the vendor's description of v2): `file-upload-info` of a dataset gives an address
for a whole file and an id; a file that was put there is complete once a report names id, path, tags, size and type.
The form of the addresses for parts is not published, so that a file goes up in one piece, which an object store takes
up to 5 GiB. [unconfirmed]: no recording shows a dataset being written.

Tests: backends/test_basespace_datasets.
"""

from __future__ import annotations

from labfs.backend import Source, Target
from labfs.backends.basespace.entries import SECOND, Json, content_type, path_of
from labfs.errors import Malformed
from labfs.http.client import Client, Patience, Request

METHOD, KEY = "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"


async def deposit(client: Client, target: Target, source: Source) -> Json:
    """Send a file into a dataset; return the service's record of it. Raises Unanswered where the report may be lost."""
    place, path = f"{SECOND}/{target.parent.id}/file-upload-info", path_of(target)
    query = {"filepath": path, "uploadpartcount": "1"}
    offer = await client.call(Request("GET", place, params=query, patience=Patience.PERSISTENT))
    told = offer.json()
    address = told.get("SinglePartUrl") if isinstance(told, dict) else None
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        raise Malformed(f"{offer.what} did not say where the file goes.")
    stored = await client.call(
        Request("PUT", address, source=source, headers=_encryption(told), patience=Patience.PERSISTENT, signed=True)
    )
    report = {
        "UploadId": str(told.get("MultipartUploadId") or ""),
        "FilePath": path,
        "PartEtags": [{"Part": 1, "Etag": stored.headers.get("etag", "").strip('"')}],
        "Size": source.size,
        "ContentType": content_type(target.name),
    }
    answer = await client.call(Request("POST", place, json=report, patience=Patience.PERSISTENT, repeatable=False))
    found = answer.json()
    if not isinstance(found, dict):
        raise Malformed(f"{answer.what} answered without the file.")
    return found


def _encryption(told: Json) -> dict[str, str]:
    """Return the headers of the encryption that an address was signed for; the store refuses a file without them."""
    named = {METHOD: told.get("ServerSideEncryptionMethod"), KEY: told.get("ServerSideEncryptionAwsKmsKeyId")}
    return {name: str(value) for name, value in named.items() if value}
