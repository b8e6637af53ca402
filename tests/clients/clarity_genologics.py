"""The whole file work of a lab with genologics; says what it found as JSON."""

import json
import pathlib
import sys

import requests
from genologics.entities import Artifact, File, Process, Project, Sample
from genologics.lims import Lims

url, username, password, directory, step, output = sys.argv[1:]
work, found = pathlib.Path(directory), {}
lims = Lims(url, username, password)
lims.check_version()
found["projects"] = [(p.id, p.name) for p in lims.get_projects(name=["Validation", "Empty project"])]
(project,) = lims.get_projects(name="Upload here")
found["open"] = project.open_date
samples = lims.get_samples(projectlimsid="MNY400")
found["samples"] = [samples[0].id, samples[-1].id, len(samples)]
found["batch"] = sorted(s.name for s in lims.get_batch(samples[:20]))
(process,) = lims.get_processes(projectname="Upload here")
found["process"] = [process.id, process.type.name, process.technician.name, len(process.input_output_maps)]
outputs = process.all_outputs(resolve=True)
found["outputs"] = sorted(a.name for a in outputs)[-2:]
found["maps"] = sorted({pair[1]["output-generation-type"] for pair in process.input_output_maps})
found["parents"] = len(Artifact(lims, id=output).input_artifact_list())

text, data = work / "notes é.txt", work / "reads.bin"
text.write_text("first\n")
data.write_bytes(bytes(range(256)) * 4096)
sample = lims.get_samples(projectlimsid=project.id, name="blank-1")[0]
made = [lims.upload_new_file(target, str(text)) for target in (project, sample, process)]
made.append(lims.upload_new_file(Artifact(lims, id=output), str(data)))
found["made"] = [file.id for file in made]
found["text"] = lims.get_file_contents(id=made[0].id)
found["same"] = lims.get_file_contents(uri=made[3].uri).read() == data.read_bytes()
found["attached"] = [f.attached_to.rpartition("/api/v2/")[2] for f in made]
later = Lims(url, username, password)  # the first one has cached what it saw
found["listed"] = [
    [f.id for f in thing(later, id=limsid).files]
    for thing, limsid in [(Project, project.id), (Sample, sample.id), (Process, process.id)]
]
published = File(lims, uri=made[0].uri)  # by LIMS ID it cannot
published.get()
published.is_published = "true"
published.put()
found["published"] = File(later, uri=made[0].uri).is_published

text.write_text("second\n")
lims.delete(made[0].uri)
again = lims.upload_new_file(project, str(text))
found["replaced"] = [again.id, lims.get_file_contents(id=again.id)]
found["others"] = [
    sorted(r.first_name for r in lims.get_researchers()),
    [lab.name for lab in lims.get_labs()],
    lims.get_containers(name="Plate 27-4012")[0].id,
    sorted(kind.name for kind in lims.get_process_types())[:2],
]
try:
    lims.get_file_contents(id=made[0].id)
except requests.exceptions.HTTPError as problem:
    found["gone"] = str(problem)
try:
    Lims(url, username, "wrong").get_projects()
except requests.exceptions.HTTPError as problem:
    found["wrong"] = problem.response.status_code
json.dump(found, sys.stdout)
