"""The vendor's generated client at work on files: run in an environment of its own by test_odm_sandbox.py.

Arguments: base URL, API token, access token, study. Writes what it saw as one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import odm_api

CONTENT = bytes(range(256)) * 40
METADATA = b"Tool\tDepth\nMetaPhlAn\t4.5\n"


def finished(jobs: Any, number: int) -> Any:
    """Poll a job as the documentation tells to; return its output."""
    for _ in range(200):
        if jobs.info(number).status not in ("STARTING", "RUNNING"):
            return jobs.output(number)
        time.sleep(0.05)
    raise TimeoutError(number)


def main(host: str, token: str, access_token: str, study: str) -> dict[str, Any]:
    configuration = odm_api.Configuration(host=host)
    configuration.api_key["Genestack-API-Token"] = token
    with odm_api.ApiClient(configuration) as api:
        files, jobs = odm_api.FilesAsUserApi(api), odm_api.JobOperationsApi(api)
        uploads, linked = odm_api.DataImportViaDirectFileUploadApi(api), odm_api.FilesIntegrationAsUserApi(api)
        first = files.get_files_metadata_as_user(page_limit=3, page_offset=1, filter='"Data Class"="Document"')
        job = uploads.start_import_a_file_multipart(
            file=("Übersicht.bin", CONTENT), study_accession=study, data_class="Document", metadata_file=METADATA
        )
        output = finished(jobs, job.job_exec_id)
        accession = output.result["accession"]
        return {
            "page": first.meta.pagination.to_dict(),
            "page_names": [item["genestack:name"] for item in first.data],
            "studies": [
                item["genestack:accession"] for item in odm_api.StudySPoTAsUserApi(api).search_studies_as_user().data
            ],
            "job": {"status": job.status, "name": job.job_name, "by": job.started_by},
            "accession": accession,
            "one": files.get_file_metadata_by_id_as_user(accession, include_contents=True),
            "in_study": accession in [item["genestack:accession"] for item in linked.get_files_by_study_as_user(study)],
            "head": length(files.head_file_as_user_with_http_info(accession)),
            "whole": bytes(files.get_file_as_user(accession)) == CONTENT,
            "part": bytes(files.get_file_as_user(accession, range="bytes=250-259")).hex(),
            "part_status": files.get_file_as_user_with_http_info(accession, range="bytes=0-0").status_code,
            "deleted": [each.to_dict() for each in odm_api.ManageDataApi(api).delete_data([accession])],
            "after": failure(lambda: files.get_file_metadata_by_id_as_user(accession)),
            "bearer": with_access_token(host, access_token, "Bearer"),
            "bare": with_access_token(host, access_token, None),
            "absent": failure(lambda: files.get_file_as_user("GSF999")),
        }


def with_access_token(host: str, token: str, prefix: str | None) -> int:
    """Return the status of a refusal, or 0: the client sends no scheme unless it is told to."""
    configuration = odm_api.Configuration(host=host)
    configuration.api_key["Access-token"] = token
    if prefix:
        configuration.api_key_prefix["Access-token"] = prefix
    with odm_api.ApiClient(configuration) as api:
        return failure(lambda: odm_api.FilesAsUserApi(api).get_files_metadata_as_user(page_limit=1))


def length(answer: Any) -> int:
    """Return the length that a HEAD told; the client keeps the names of headers as they came."""
    return int({name.lower(): value for name, value in answer.headers.items()}["content-length"])


def failure(call: Any) -> int:
    try:
        call()
    except odm_api.ApiException as problem:
        return int(problem.status)
    return 0


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout, default=str)
