"""Open notebooks in a real JupyterLab and run them there, in a headless Chromium."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

from bridgework.tests.browser import leashed_program
from bridgework.tests.browser.chromium import Chromium, wait_for

# Neither news nor updates are looked for, so that nothing covers the notebook and nobody is asked.
QUIET = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
OWN = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
OPEN = """
(async () => {
  window.panel = await jupyterapp.commands.execute("docmanager:open", { path: PATH });
  await panel.context.ready;
  await panel.sessionContext.ready;
  jupyterapp.shell.activateById(panel.id);
})()
"""
RUN = """
window.ran = false;
window.wrong = null;
jupyterapp.commands.execute("notebook:run-all-cells").then(() => (ran = true), (reason) => (wrong = String(reason)));
"""
IDLE = "panel.sessionContext.session.kernel.status === 'idle'"
CELLS = "[...panel.content.model.cells].map((cell) => cell.toJSON())"
BROKEN = """
[...panel.node.querySelectorAll(".jp-OutputArea-output")].map((output) => output.innerText)
  .filter((text) => /^(Loading widget|Error displaying widget|Error creating widget|JavaScript Error)/.test(text))
"""
CLOSE = "panel.sessionContext.shutdown().then(() => panel.dispose())"


class JupyterLab:
    """A server of one folder, on a port of this machine and with settings of its own, and a browser that shows it."""

    def __init__(self, folder: Path, width: int = 1300, height: int = 1000) -> None:
        self.folder = folder
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        home, token = Path(self.home.name), secrets.token_hex(16)
        own = {name: str(home / name.lower()) for name in OWN} | {"JUPYTER_TOKEN": token}
        settings = Path(own["JUPYTER_CONFIG_DIR"], "labconfig")
        settings.mkdir(parents=True)
        (settings / "page_config.json").write_text(json.dumps(QUIET))
        options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={folder}"]
        options += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
        log = home / "log.txt"
        command = [sys.executable, "-m", "jupyterlab", *options]
        self.server = leashed_program.start(command, log, cwd=home, env=os.environ | own)
        address = wait_for(log, r"http://127\.0\.0\.1:\d+/", 300)
        self.page = Chromium(width, height)
        self.page.open(f"{address}lab?reset&token={token}")
        self.page.until("window.jupyterapp?.restored.then(() => (window.restored = true)) && window.restored", 300)

    def __enter__(self) -> JupyterLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()
        leashed_program.stop(self.server)
        self.home.cleanup()

    def open(self, notebook: str) -> None:
        """Open a notebook of the folder, and wait for its kernel."""
        self.page.run(OPEN.replace("PATH", json.dumps(notebook)))

    def run_all(self, seconds: float = 600) -> list[dict[str, Any]]:
        """Run all cells by JupyterLab's own command, and return them with their outputs."""
        self.page.run(RUN)
        self.page.until("window.ran || window.wrong", seconds, every=0.2)
        assert not self.page.run("window.wrong")
        self.page.until(IDLE, seconds)
        return self.page.run(CELLS)

    def run_cell(self, number: int) -> None:
        """Run one cell by JupyterLab's own command."""
        self.page.run(f"panel.content.activeCellIndex = {number}; jupyterapp.commands.execute('notebook:run-cell')")
        self.page.until(IDLE)

    def broken_outputs(self) -> list[str]:
        """Return what stands in place of outputs that JupyterLab cannot show."""
        return self.page.run(BROKEN)

    def shut(self) -> None:
        """End the notebook's kernel, and close it without saving."""
        self.page.run(CLOSE)
