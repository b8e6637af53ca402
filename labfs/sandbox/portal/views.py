"""How the rows of the Portal stand-in are shown: the keys of each form, in the order of the real ones.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from labfs.sandbox.cost import prepare
from labfs.sandbox.portal.answers import Broken, moment
from labfs.sandbox.portal.bucket import Bucket
from labfs.sandbox.portal.shelf import LINKS, Shelf
from labfs.sandbox.store import Row

Json = dict[str, Any]
ANONYMOUS_USER = "AnonymousUser"  # who has no names of its own
MONTH_US = 30 * 24 * 3600 * 1_000_000
SHORT_MATERIAL = (
    "id", "category", "title", "url", "organisms", "organization", "contact_user", "pubmed_id", "is_archived",
    "additional_metadata", "needs_mta", "has_publication", "needs_irb", "needs_abstract", "imported", "import_source",
    "publication_title", "pre_print_doi", "pre_print_title", "citation", "additional_info", "embargo_date",
    "created_at", "updated_at",
)  # fmt: skip
MATERIAL = (
    "id", "category", "title", "url", "organisms", "organization", "pubmed_id", "is_archived", "additional_metadata",
    "contact_user", "sequence_maps", "mta_attachment", "needs_mta", "has_publication", "needs_irb", "needs_abstract",
    "imported", "shipping_requirement", "import_source", "grants", "publication_title", "pre_print_doi",
    "pre_print_title", "citation", "additional_info", "embargo_date", "created_at", "updated_at",
)  # fmt: skip


def times(row: Row) -> Json:
    return {"created_at": moment(row["created"]), "updated_at": moment(row["updated"])}


class Views:
    """Rows as JSON. `url` is where the service listens."""

    def __init__(self, shelf: Shelf, bucket: Bucket) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._bucket = bucket
        self.url = ""

    def _ids(self, table: str, where: str, *values: Any, order: str = "created, id") -> list[Any]:
        return [row["id"] for row in self._shelf.all(table, where, *values, order=order)]

    # -- attachments -----------------------------------------------------------------------------------

    def download_url(self, row: Row) -> str | None:
        """Return a new presigned address, or the lasting one of local mode, or None for no bytes in the bucket."""
        if self._shelf.local:
            path = f"attachment_{row['id']}/{row['filename']}"
            if "\n" in path and self._shelf.switches.newline_in_local_url == "error":
                raise Broken
            return f"{self.url}/v1/uploaded-file/{quote(path, safe='/~:@!$&()*+,;=' + chr(39))}"
        if row["s3_deleted"] or row["s3_key"] is None:
            return None
        return self._bucket.address(row["s3_key"])

    def attachments(self, rows: Sequence[Row]) -> list[Json]:
        """Return summaries; one query for each kind of link, however many rows there are."""
        prepare(len(rows))
        links: dict[str, dict[int, list[int]]] = {}
        for name, (table, column) in LINKS.items():
            found = links[name] = defaultdict(list)
            for row in self._shelf.all(table, f"{column} IS NOT NULL"):
                found[row[column]].append(row["id"])
        return [self._attachment(row, {name: links[name].get(row["id"], []) for name in LINKS}) for row in rows]

    def attachment(self, row: Row | None) -> Json | None:
        return None if row is None else self.attachments([row])[0]

    def _attachment(self, row: Row, links: dict[str, list[int]]) -> Json:
        return {
            "id": row["id"],
            "filename": row["filename"],
            "description": row["description"],
            "download_url": self.download_url(row),
            "s3_resource_deleted": bool(row["s3_deleted"]),
            **times(row),
            "sequence_map_for": row["material"],
            **links,
            "owned_by_org": row["organization"],
            "owned_by_user": row["user"],
        }

    def attachment_detail(self, row: Row) -> Json:
        found = self.attachments([row])[0]
        material = self._shelf.find("materials", row["material"])
        organization = self._shelf.find("organizations", row["organization"])
        nested: Json = {
            name: [
                self.material_short(each) if table == "materials" else self.request_short(each)
                for each in self._shelf.all(table, f"{column} = ?", row["id"])
            ]
            for name, (table, column) in LINKS.items()
        }
        nested["sequence_map_for"] = None if material is None else self.material_short(material)
        nested["owned_by_org"] = None if organization is None else self.organization_short(organization)
        nested["owned_by_user"] = self.user_short(self._shelf.get("users", row["user"]))
        return {**found, **nested}

    # -- users and organizations -------------------------------------------------------------------------

    def user_short(self, row: Row) -> Json:
        return {
            "id": row["id"],
            "username": f"{row['first']}{row['last']}" or ANONYMOUS_USER,
            "first_name": row["first"],
            "last_name": row["last"],
            "email": row["email"],
            "full_name": f"{row['first']} {row['last']}",
            **times(row),
        }

    def user(self, row: Row, caller: Row) -> Json:
        """Return a user; what is private only to the user's own self."""
        short, own = self.user_short(row), row["id"] == caller["id"]
        private = self._private(row) if own or self._shelf.switches.users_prepare == "all" else {}
        teams = self._shelf.organizations_of(row["id"])
        owned = self._shelf.all("organizations", "owner = ?", row["id"], order="updated, id")
        shown = {each["id"]: self.organization_short(each) for each in [*teams, *owned]}
        found = {
            **{name: short[name] for name in ("id", "username", "first_name", "last_name", "full_name", "email")},
            "orcid": row["orcid"],
            "viewed_notifications_at": None,
            "receive_non_assigned_notifs": False,
            "receive_weekly_digest": True,
            "owned_attachments": private.get("owned_attachments"),
            "material_requests": private.get("material_requests"),
            "grants": self.grants("user = ?", row["id"]),
            "invitations": [],
            "organizations": [shown[each["id"]] for each in teams],
            "owned_organizations": [shown[each["id"]] for each in owned],
            "public_organizations": [shown[each["id"]] for each in teams if each["id"] != row["personal"]],
            "owned_public_organizations": [shown[each["id"]] for each in owned if each["id"] != row["personal"]],
            "personal_organization": shown.get(row["personal"]),
            "assignments": private.get("assignments"),
            "addresses": [],
            **times(row),
        }
        hidden = {"viewed_notifications_at", "owned_attachments", "material_requests", "invitations", "assignments",
                  "addresses"}  # fmt: skip
        return found if own else {name: value for name, value in found.items() if name not in hidden}

    def _private(self, row: Row) -> Json:
        return {
            "owned_attachments": self.attachments(self._shelf.attachments("user = ?", row["id"])),
            "material_requests": [
                self.request_short(r) for r in self._shelf.all("requests", "requester = ?", row["id"])
            ],
            "assignments": [self.request_short(r) for r in self._shelf.all("requests", "assigned = ?", row["id"])],
        }

    def members(self, organization: int, order: str = "created") -> list[Row]:
        where = "id IN (SELECT user FROM portal_members WHERE organization = ?)"
        return self._shelf.all("users", where, organization, order=order)

    def _supported(self, kind: str, target: int) -> tuple[str, str, int]:
        return "id IN (SELECT support FROM portal_grant_links WHERE kind = ? AND target = ?)", kind, target

    def organization_short(self, row: Row) -> Json:
        return {
            "id": row["id"],
            "name": row["name"],
            "description": row["description"],
            "is_personal_organization": bool(row["personal"]),
            "owner": row["owner"],
            "members": [member["id"] for member in self.members(row["id"])],
            "materials": self._ids("materials", "organization = ?", row["id"]),
            "grants": self._ids("grants", *self._supported("organization", row["id"])),
            **times(row),
        }

    def organization(self, row: Row) -> Json:
        """Return an entry of the list of all organizations."""
        short = self.organization_short(row)
        where = "NOT removed AND organization = ?"
        first = ("id", "owner", "name", "description", "is_personal_organization", "members", "materials", "grants")
        attachments = self._ids("attachments", where, row["id"], order="updated, id")
        return {**{name: short[name] for name in first}, "attachments": attachments, **times(row)}

    def organization_detail(self, row: Row) -> Json:
        materials = self._shelf.all("materials", "organization = ?", row["id"])
        nested = {
            "owner": self.user_short(self._shelf.get("users", row["owner"])),
            "members": [self.user_short(member) for member in self.members(row["id"])],
            "materials": [self.material_short(material) for material in materials],
            "grants": self.grants(*self._supported("organization", row["id"])),
            "attachments": self.attachments(self._shelf.attachments("organization = ?", row["id"])),
        }
        return {**self.organization(row), **nested}

    def grants(self, where: str, *values: Any) -> list[Json]:
        return [
            {
                "id": row["id"],
                "title": row["title"],
                "year": row["year"],
                "funder_id": row["funder"],
                "user": row["user"],
                "organizations": self._targets(row["id"], "organization"),
                "materials": self._targets(row["id"], "material"),
                **times(row),
            }
            for row in self._shelf.all("grants", where, *values)
        ]

    def _targets(self, grant: int, kind: str) -> list[int]:
        sql = "SELECT target FROM portal_grant_links WHERE support = ? AND kind = ? ORDER BY target"
        return [row["target"] for row in self._store.all(sql, grant, kind)]

    # -- materials ---------------------------------------------------------------------------------------

    def _fields(self, row: Row) -> Json:
        details = self._shelf.details(row)
        return {
            "id": row["id"],
            "category": row["category"],
            "title": row["title"],
            "organization": row["organization"],
            "contact_user": row["contact"],
            "needs_mta": row["mta"] is not None,
            "has_publication": details["pubmed_id"] != "",
            **details,
            **times(row),
        }

    def material_short(self, row: Row) -> Json:
        fields = self._fields(row)
        return {name: fields[name] for name in SHORT_MATERIAL}

    def material(self, row: Row) -> Json:
        """Return a material with ids for all that it is linked to: the answer to a change."""
        fields = {
            **self._fields(row),
            "sequence_maps": self._ids("attachments", "NOT removed AND material = ?", row["id"], order="updated, id"),
            "mta_attachment": row["mta"],
            "grants": self._ids("grants", *self._supported("material", row["id"])),
        }
        return {name: fields[name] for name in MATERIAL}

    def material_item(self, row: Row) -> Json:
        """Return an entry of the list. The MTA is shown also after it was deleted, as the real list does."""
        nested = {
            "mta_attachment": self.attachment(self._shelf.find("attachments", row["mta"])),
            "grants": self.grants(*self._supported("material", row["id"])),
        }
        return {**self.material(row), **nested}

    def material_detail(self, row: Row) -> Json:
        nested = {
            "contact_user": self.user_short(self._shelf.get("users", row["contact"])),
            "sequence_maps": self.attachments(self._shelf.attachments("material = ?", row["id"])),
            "organization": self.organization_short(self._shelf.get("organizations", row["organization"])),
        }
        return {**self.material_item(row), **nested}

    # -- requests ----------------------------------------------------------------------------------------

    def request(self, row: Row) -> Json:
        """Return a request with ids for all that it is linked to."""
        material = self._shelf.get("materials", row["material"])
        needs_irb = self._shelf.details(material)["needs_irb"]
        missing = bool(needs_irb and not row["irb"]) or bool(material["mta"] and not row["signed"])
        asks_requester = row["status"] == "APPROVED" and missing
        active = row["status"] in ("OPEN", "APPROVED", "IN_FULFILLMENT")
        age = time.time_ns() // 1000 - row["created"]
        return {
            "id": row["id"],
            "is_active_requester": active or row["status"] == "FULFILLED",
            "is_active_sharer": active,
            "rejection_reason": None,
            "status": row["status"],
            "payment_method": None,
            "payment_method_notes": None,
            "requester_abstract": row["abstract"],
            "assigned_to": row["assigned"],
            "has_issues": False,
            "issues": [],
            "is_one_month_old": age > MONTH_US,
            "is_missing_requester_documents": missing,
            "requires_action_sharer": active and not asks_requester,
            "requires_action_requester": asks_requester,
            "executed_mta_attachment": row["executed"],
            "irb_attachment": row["irb"],
            "material": row["material"],
            "requester": row["requester"],
            "requester_signed_mta_attachment": row["signed"],
            "fulfillment_notes": [],
            "address": None,
            "human_readable_created_at": f"{age // (MONTH_US // 30)} days ago",
            **times(row),
        }

    def request_short(self, row: Row) -> Json:
        """Return a request as it is nested in users and attachments."""
        return {**self.request(row), "needs_shipping_info": False}

    def request_detail(self, row: Row) -> Json:
        documents = {"executed_mta_attachment": "executed", "irb_attachment": "irb",
                     "requester_signed_mta_attachment": "signed"}  # fmt: skip
        nested = {name: self.attachment(self._shelf.find("attachments", row[column]))
                  for name, column in documents.items()}  # fmt: skip
        return {
            **self.request(row),
            "requester": self.user_short(self._shelf.get("users", row["requester"])),
            "material": self.material_detail(self._shelf.get("materials", row["material"])),
            **nested,
        }
