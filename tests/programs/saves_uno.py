"""Opens a document in LibreOffice, adds a word and saves it: `python3 saves_uno.py DOCUMENT PROFILE`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import uno
from com.sun.star.beans import PropertyValue


def main(document: str, profile: str) -> int:
    pipe = f"labfs{os.getpid()}"
    office = subprocess.Popen(
        ["soffice", "--headless", "--norestore", f"-env:UserInstallation=file://{profile}",
         f"--accept=pipe,name={pipe};urp;"]
    )  # fmt: skip
    here = uno.getComponentContext()
    resolver = here.ServiceManager.createInstanceWithContext("com.sun.star.bridge.UnoUrlResolver", here)
    for _ in range(300):
        try:
            there = resolver.resolve(f"uno:pipe,name={pipe};urp;StarOffice.ComponentContext")
            break
        except Exception:
            time.sleep(0.2)
    desktop = there.ServiceManager.createInstanceWithContext("com.sun.star.frame.Desktop", there)
    hidden = PropertyValue()
    hidden.Name, hidden.Value = "Hidden", True
    opened = desktop.loadComponentFromURL(Path(document).absolute().as_uri(), "_blank", 0, (hidden,))
    try:
        opened.Text.insertString(opened.Text.End, "added", False)
        opened.store()
        opened.close(True)
    finally:
        try:
            desktop.terminate()
        except Exception:
            office.terminate()
    return office.wait(30)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
