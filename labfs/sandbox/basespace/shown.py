"""How the BaseSpace stand-in shows its rows.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import json
from typing import Any

from labfs.sandbox.basespace.answers import moment
from labfs.sandbox.basespace.shelf import Shelf
from labfs.sandbox.store import Row

PARENTS = {"appresults": "ParentAppResult", "samples": "ParentSample", "runs": "ParentRun"}
GENOME = {
    "Id": "4", "DisplayName": "Homo sapiens - UCSC (hg19)", "SpeciesName": "Homo sapiens", "Source": "UCSC",
    "Build": "hg19", "Href": "v1pre3/genomes/4", "HrefAnnotations": "v1pre3/genomes/4/annotations",
}  # fmt: skip
APPLICATION = {
    "Id": "1", "Href": "v1pre3/applications/1", "Name": "Sandbox", "CompanyName": "labfs", "VersionNumber": "1.0.0",
    "ShortDescription": "The sandbox", "DateCreated": "2015-11-29T23:43:42.0000000Z", "PublishStatus": "Development",
    "IsBillingActivated": False, "Category": "Other", "Classifications": [], "AppFamilySlug": "labfs.sandbox",
    "AppVersionSlug": "labfs.sandbox.1.0.0", "Features": [], "LockStatus": "Unlocked",
}  # fmt: skip
CYCLES, CLUSTERS = 151, 1_390_368  # of every sample
READS = {
    "Read1": CYCLES, "Read2": CYCLES, "NumReadsPF": CLUSTERS, "NumReadsRaw": CLUSTERS, "IsPairedEnd": True,
    "TotalReadsPF": 2 * CLUSTERS, "TotalReadsRaw": 2 * CLUSTERS,
    "TotalClustersPF": CLUSTERS, "TotalClustersRaw": CLUSTERS,
}  # fmt: skip


class Shown:
    """Items of lists, and single things, which carry more."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches

    def date(self, seconds: float | None) -> str:
        return moment(seconds, self._switches.date_digits)

    def user(self, number: int) -> dict[str, Any]:
        row = self._store.one("SELECT * FROM users WHERE id = ?", number)
        name = row["name"] if row else "Somebody"
        return {"Id": str(number), "Href": f"v1pre3/users/{number}", "Name": name, "DateCreated": self.date(None)}

    def project(self, row: Row) -> dict[str, Any]:
        size = "SELECT coalesce(sum(size), 0) FROM files JOIN records ON records.id = record WHERE project = ?"
        return {
            "Id": str(row["id"]),
            "Href": f"v1pre3/projects/{row['id']}",
            "Name": row["name"],
            "UserOwnedBy": self.user(row["user"]),
            "Description": row["description"],
            "DateCreated": self.date(row["created"]),
            "DateModified": self.date(row["modified"]),
            "HasCollaborators": False,
            "TotalSize": self._store.count(size, row["id"]),
        }

    def whole_project(self, row: Row) -> dict[str, Any]:
        href = f"v1pre3/projects/{row['id']}"
        return {
            **self.project(row),
            "HrefSamples": f"{href}/samples",
            "HrefAppResults": f"{href}/appresults",
            "HrefBaseSpaceUI": f"https://basespace.illumina.com/projects/{row['id']}",
            "Properties": self.properties(f"projects/{row['id']}"),
        }

    # -- records -------------------------------------------------------------------------------------

    def record(self, row: Row) -> dict[str, Any]:
        """Return a record as lists show it: an app result with its session, a sample with its library."""
        item = self._common(row)
        if row["kind"] == "samples":
            item |= {**self._sequenced(row), "Library": self._library(row)}
        if row["kind"] != "samples" or self._switches.sample_sessions:
            item |= self._session_of(row)
        return item

    def whole_record(self, row: Row) -> dict[str, Any]:
        resource = f"{row['kind']}/{row['id']}"
        whole = self._common(row) | self._session_of(row)
        if row["kind"] == "samples":
            whole |= {**self._sequenced(row), "HrefGenome": GENOME["Href"], "SampleNumber": 1}
        return {
            **whole,
            "Description": row["description"],
            "HrefFiles": f"v1pre3/{resource}/files",
            "References": [],
            "Properties": self.properties(resource),
            "Projects": [self.project(self._shelf.row("projects", row["project"]))],
        }

    def _common(self, row: Row) -> dict[str, Any]:
        session = self._store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        return {
            "Id": str(row["id"]),
            "Href": f"v1pre3/{row['kind']}/{row['id']}",
            "UserOwnedBy": self.user(session["user"] if session else 1),
            "Name": row["name"],
            "Status": session["status"] if session else "Complete",
            "StatusSummary": session["summary"] if session else "",
            "DateCreated": self.date(row["created"]),
            "TotalSize": self._store.count("SELECT coalesce(sum(size), 0) FROM files WHERE record = ?", row["id"]),
        }

    def _session_of(self, row: Row) -> dict[str, Any]:
        session = self._store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        return {} if session is None else {"AppSession": self.session(session)}

    def _sequenced(self, row: Row) -> dict[str, Any]:
        named = {"SampleId": row["name"], "ExperimentName": "Sandbox run", "IsMerged": False}
        return {**named, "Genome": GENOME, **READS}

    def _library(self, row: Row) -> dict[str, Any]:
        project = self.project(self._shelf.row("projects", row["project"]))
        number, owner, date = str(row["id"]), project["UserOwnedBy"], self.date(row["created"])
        sample = {
            "Id": number, "Href": f"v1pre3/biologicalsamples/{number}", "UserSampleId": row["name"],
            "NucleicAcid": "Undefined", "Project": project, "UserOwnedBy": owner, "DateModified": date,
        }  # fmt: skip
        return {
            "OwnerUser": owner, "Id": number, "Href": f"v1pre3/libraries/{number}", "BiologicalSample": sample,
            "DateModified": date, "Project": project, "LibraryName": row["name"], "State": "Active",
        }  # fmt: skip

    def session(self, row: Row) -> dict[str, Any]:
        size = "SELECT coalesce(sum(size), 0) FROM files JOIN records ON records.id = record WHERE session = ?"
        item = {
            "Id": str(row["id"]),
            "Name": row["name"],
            "Href": f"v1pre3/appsessions/{row['id']}",
            "Application": APPLICATION,
            "UserCreatedBy": self.user(row["user"]),
            "Status": row["status"],
            "QcStatus": "Undefined",
            "StatusSummary": row["summary"],
            "DateCreated": self.date(row["created"]),
            "ModifiedOn": self.date(row["modified"]),
        }
        if row["status"] in ("Complete", "Aborted"):  # it cannot change again
            item["DateCompleted"] = self.date(row["modified"])
        return {**item, "TotalSize": self._store.count(size, row["id"])}

    # -- files ---------------------------------------------------------------------------------------

    def file(self, row: Row) -> dict[str, Any]:
        item = {
            "Id": str(row["id"]),
            "Href": f"v1pre3/files/{row['id']}",
            "HrefContent": f"v1pre3/files/{row['id']}/content",
            "Name": row["name"],
            "Path": row["path"],
            "ContentType": row["type"],
            "Size": row["size"],
            "IsArchived": bool(row["archived"]),
            "DateCreated": self.date(row["created"]),
            "DateModified": self.date(row["modified"]),
            "IdAsLong": row["id"],
        }
        return {**item, "ETag": row["etag"]} if row["etag"] else item

    def whole_file(self, row: Row) -> dict[str, Any]:
        properties = self.properties(f"files/{row['id']}")
        whole = {**self.file(row), "UploadStatus": row["status"], "Properties": properties}
        del whole["IdAsLong"]
        if row["status"] == "pending":
            whole["HrefParts"] = f"v1pre3/files/{row['id']}/parts"
        parent = self._store.one("SELECT * FROM records WHERE id = ?", row["record"])
        if parent is None or parent["kind"] not in PARENTS:
            return whole
        return {**whole, PARENTS[parent["kind"]]: self.record(parent)}

    # -- properties ----------------------------------------------------------------------------------

    def properties(self, resource: str) -> dict[str, Any]:
        rows = self._store.all("SELECT * FROM properties WHERE resource = ? ORDER BY name", resource)
        items = [self._property(resource, row) for row in rows]
        href = f"v1pre3/{resource}/properties"
        return {"Items": items, "DisplayedCount": len(items), "TotalCount": len(items), "Href": href}

    def _property(self, resource: str, row: Row) -> dict[str, Any]:
        kind = row["type"] if self._switches.property_types == "sent" else row["type"].lower()
        href = f"v1pre3/{resource}/properties/{row['name']}"
        item = {"Type": kind, "Href": href, "Name": row["name"], "Description": row["description"]}
        if not kind.endswith("[]"):
            return {**item, "Content": row["content"]}
        items = [self._resource(found) for found in json.loads(row["content"] or "[]")]
        counts = {"ItemsDisplayedCount": len(items), "ItemsTotalCount": len(items)}
        return {**item, "Items": items, "HrefItems": f"{href}/items", **counts}

    def _resource(self, text: str) -> Any:
        """Return what `v1pre3/samples/1` names, or the text itself where it names nothing."""
        kind, _, number = text.removeprefix("v1pre3/").partition("/")
        if kind not in PARENTS or not number.isdigit():
            return text
        row = self._store.one("SELECT * FROM records WHERE kind = ? AND id = ?", kind, int(number))
        return self.record(row) if row else text
