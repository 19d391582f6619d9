"""Compose as the container tests use it."""

import json
import os
import subprocess
from pathlib import Path

from results.provenance import git_revision

ROOT = Path(__file__).parents[2]
# Somebody without a name in the image, whose id is not the one the image defaults to.
OWNER = os.getuid() or 12345


class Services:
    """Compose in a project of its own, with folders of its own, so that a developer's work/ is not touched."""

    def __init__(self, home: Path):
        self.work, self.results, self.slides = home / "work", home / "results", home / "slides"
        self.revision = git_revision()
        for folder in (self.work, self.results / "records", self.results / "tables", self.slides):
            folder.mkdir(parents=True)
        for folder in (home, *home.rglob("*")):
            os.chown(folder, OWNER, OWNER if os.getuid() == 0 else -1)
        self.environment = os.environ | {
            "RUN_AS": f"{OWNER}:{OWNER if os.getuid() == 0 else os.getgid()}",
            "WORK": str(self.work),
            "RESULTS": str(self.results),
            "DATA": str(self.slides),
            "REVISION": self.revision,
        }

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose` on docker-compose.yml alone; a developer's .env is not read."""
        command = ["docker", "compose", "--env-file", os.devnull, "-f", "docker-compose.yml", "-p", "sgcl-bench-tests"]
        return subprocess.run([*command, *words], cwd=ROOT, env=self.environment, capture_output=True, text=True)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a service to its end."""
        return self.compose("run", "--rm", "-T", *words)

    def python(self, code: str) -> dict:
        """Run code in the pretrain service and return the JSON it prints."""
        done = self.run("--entrypoint", "python", "pretrain", "-c", code)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
