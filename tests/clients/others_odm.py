"""Files of one study by odm-api: reads what to do as JSON, says what became of it."""

import json
import sys
import time

import odm_api


def finished(jobs, number):
    while jobs.info(number).status in ("STARTING", "RUNNING"):
        time.sleep(0.05)
    return jobs.output(number)


where, tasks = json.load(sys.stdin)
configuration, found = odm_api.Configuration(host=where["url"]), []
configuration.api_key["Genestack-API-Token"] = where["token"]
with odm_api.ApiClient(configuration) as api:
    files, jobs = odm_api.FilesAsUserApi(api), odm_api.JobOperationsApi(api)
    for action, name, _, data in tasks:
        listed = odm_api.FilesIntegrationAsUserApi(api).get_files_by_study_as_user(where["study"])
        held = {item["genestack:name"]: item["genestack:accession"] for item in listed}
        if action == "put":
            job = odm_api.DataImportViaDirectFileUploadApi(api).start_import_a_file_multipart(
                file=(name, bytes.fromhex(data)), study_accession=where["study"], data_class="Document"
            )
            assert finished(jobs, job.job_exec_id).status == "COMPLETED"
        if action == "delete" or (action == "put" and name in held):
            odm_api.ManageDataApi(api).delete_data([held[name]])
        elif action == "get":
            found.append([name, bytes(files.get_file_as_user(held[name])).hex()])
        elif action == "has":
            found.append(name if name in held else "")
sys.stdout.write(f"\n{json.dumps(found)}\n")
