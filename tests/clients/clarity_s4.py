"""The whole file work of a lab with s4-clarity; says what it found as JSON."""

import io
import json
import pathlib
import sys

from s4.clarity import LIMS
from s4.clarity._internal.factory import MultipleMatchingElements
from s4.clarity.exception import ClarityException
from s4.clarity.file import File

url, username, password, directory, step, output = sys.argv[1:]
found = {}


def fresh():
    return LIMS(url + "/api/v2", username, password)


def failure(function):
    try:
        function()
    except ClarityException as problem:
        return [type(problem).__name__, str(problem)]


lims = fresh()
found["versions"] = [v["major"] for v in lims.versions]
found["limit"] = lims.properties["api.artifacts.max.resultfile.upload.size"]
found["projects"] = len(lims.projects.query(prefetch=False))
project = lims.projects.get_by_name("Upload here")
try:
    lims.projects.get_by_name("Validation")
except MultipleMatchingElements:
    found["twins"] = True
samples = lims.samples.query(projectlimsid="MNY400")
found["samples"] = [len(samples), samples[0].name, samples[-1].name, samples[7].project.name]
(run,) = lims.steps.query(prefetch=False, projectname="Upload here")
found["step"] = [run.limsid, run.current_state, run.date_completed, run.name]
found["iomaps"] = [len(run.details.iomaps), len(run.details.outputs), [a.name for a in run.details.shared_outputs]]
process = lims.processes.from_limsid(step)
found["process"] = [process.technician.last_name, len(process.outputs), [a.name for a in process.shared_outputs]]
found["batch"] = sorted(a.name for a in lims.artifacts.batch_get_from_limsids([output, "ADM1A1PA1"]))

names = []
for target, name in (
    (project, "project.txt"),
    (lims.samples.from_limsid("KLM300A1"), "sample ü.txt"),
    (run, "step.txt"),
):
    file = File.new_empty(target, name=name)
    file.write("text of " + name)
    file.close()
    names.append([file.limsid, file.attached_to.rpartition("/api/v2/")[2]])
found["made"] = names
local = pathlib.Path(directory) / "local.bin"
local.write_bytes(bytes(range(256)))
file = File.new_from_local(project, str(local))
file.mode = "rb"
file.close()
found["local"] = file.limsid

for turn, data in enumerate((b"first, the longer one", b"second")):
    with_file = fresh().artifact(output).open_file("wb", name="result.bin")
    with_file.write(data)
    with_file.close()
    found[f"round {turn}"] = with_file.uri.rpartition("/")[2]  # its limsid stays that of the deleted file
shared = fresh().step(step).open_resultfile("Summary", "w")
shared.write("summary")
shared.close()


def fetched(limsid):
    source, sink = fresh().files.from_limsid(limsid), io.BytesIO()
    source.mode = "rb"
    source.pipe_to(sink)
    return sink.getvalue().decode("latin-1")


found["fetched"] = [fetched(found["round 1"]), fetched(names[1][0])]
found["local back"] = fetched(file.limsid) == local.read_bytes().decode("latin-1")
found["files"] = [f.name for f in fresh().projects.get_by_name("Upload here").files]
found["names"] = sorted(f.name for f in fresh().files.batch_get_from_limsids([n[0] for n in names]))
found["gone"] = failure(lambda: fetched(found["round 0"]))
(lost,) = [f for f in fresh().files.query(**{"process-type": "NextSeq 2000 Run"}) if f.name == "never-arrived.csv"]
found["lost"] = failure(lambda: lost.pipe_to(io.StringIO()))
doomed = fresh()
doomed.files.delete(doomed.files.from_limsid(names[0][0]))
found["wrong"] = failure(lambda: LIMS(url + "/api/v2", username, "wrong").versions)
json.dump(found, sys.stdout)
