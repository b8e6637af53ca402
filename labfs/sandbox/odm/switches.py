"""What no source settles about the service, each with the variant that is likelier.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from labfs.sandbox.cost import Cost


@dataclass(slots=True)
class Switches(Cost):
    """Times are in seconds. A word in quotes lists the variants that there are."""

    # who asks
    api_tokens: bool = True  # an instance may switch off either kind of token
    access_tokens: bool = True
    bare_authorization: str = "refuse"  # or "accept": `Authorization` without `Bearer`
    both_kinds: str = "refuse"  # or "api-token" or "access-token": the one that counts
    forbidden_status: int = 403  # outside manage-data, where it is documented

    # shapes
    error_body: str = "message"  # or "problem" (RFC 7807), "text" or "empty"
    over_limit: str = "refuse"  # or "clamp": a page limit outside 0..2000
    exhausted_key: bool = False  # list envelopes carry `resultsExhausted` too
    file_order: str = "scattered"  # or "ascending" or "descending", by accession
    tsv_columns: str = "seen"  # or "sorted"
    tsv_missing: str = ""  # what stands where a record has no value
    version_time: str = "ms"  # or "s"
    contents_form: str = "tree"  # or "flat": a list of paths
    other_contents: str = "absent"  # or "null": of files that are no container
    bad_id_status: int = 400  # an accession of the wrong form
    wrong_kind_status: int = 404  # an accession of another kind of object
    unknown_file_status: int = 400  # on `study/by/file`, where no 404 is declared

    # reading
    head_length: bool = True  # HEAD tells Content-Length
    whole_length: bool = True  # GET of a whole file tells Content-Length
    ranges: bool = True  # honoured; else 200 and the whole file
    range_total: str = "size"  # or "star" or "absent": the end of Content-Range
    past_end_status: int = 416  # or 206 (empty), 200 (whole) or 400
    many_ranges_status: int = 400  # or 200 (whole)
    descriptive_headers: bool = False  # ETag, Last-Modified, Accept-Ranges, Content-Disposition
    compress: bool = False  # a whole file in gzip coding for who accepts it
    audit_listing: bool = True  # an event for each study listed
    audit_user_downloads: bool = False  # downloads as-user are events too

    # importing
    job_s: float = 0.3  # from the POST to the end of a job
    job_end: str = "COMPLETED"  # or "FAILED", "STOPPED", "ABANDONED" or "UNKNOWN"
    job_name: str = "IMPORT_FILE"
    study_result: str = "both"  # or "accession" or "groupAccession": what a study's import calls its accession
    early_output_status: int = 200  # of the output of a job that still runs
    stop_status: int = 200  # of stop and restart, which do not apply to attachments
    index_lag_s: float = 1.0  # from the end of a job to the lists of files
    links_lag: bool = False  # the files of a study lag as well
    bad_import: str = "refuse"  # or "fail": the POST is accepted and the job fails
    bad_import_status: int = 400
    late_field: str = "refuse"  # or "accept": a text field after the file
    pipeline_fields: str = "refuse"  # or "ignore": fields of the server's own pipeline
    stored_name: str = "filename"  # or "basename": what lies behind its last slash
    decoded_names: bool = False  # `%22`, `%0A` and `%0D` in a filename, as forms escape what would break them
    repeated_file_link: str = "accept"  # or "conflict": the same link a second time
    largest_upload: int = 0  # bytes of a file in a form; 0 for no limit
    bucket: bool = True  # without one all imports of files fail

    # other changes
    linked_status: int = 201
    removal_s: float = 1.0  # from the answer to a deletion until the object is gone
    doomed: str = "all"  # or "named": what the answer to a deletion lists
