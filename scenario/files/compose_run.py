"""shell: `make compose-test`: an image, containers of it, five scenarios, and all gone again.

Whatever happens, Ctrl-C included, containers, networks and volumes are taken down; images stay, so
that the next run builds only what changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from admin import output
from admin.client import ClusterClient
from admin.endpoint import outside_cluster
from admin.spawn import pause
from base.clock import RealClock
from base.errors import ConfigError, NotFound, RequestTimeout, StorageError
from base.units import NS_PER_S
from scenario.files.container_engine import NODE_LABEL, Engine, socket_of
from scenario.files.junit import junit
from scenario.files.library import find
from scenario.files.loader import read
from scenario.files.models import STEPS_MAX
from scenario.files.one_run import perform
from scenario.files.verdict import PASS, Result

ROOT: Final = Path(__file__).resolve().parents[2]
SCENARIOS: Final = (
    "owner-killed", "isolated-owner", "paused-owner", "broker-lost", "rolling-restart"
)  # fmt: skip
QUICK_STEPS: Final = 3
PROJECT: Final = "eightfold-test"
IMAGE: Final = "eightfold:test"
BASE: Final = "eightfold-base"
ENDPOINTS: Final = ",".join(f"127.0.0.1:{port}" for port in range(10_817, 10_825))
WHEELS: Final = ROOT / "build" / "wheels"
PYTHON: Final = "/usr/bin/python3"  # of the packages that the base image is made of
NOT_IN_IMAGES: Final = "matplotlib"  # as the Dockerfile has it
FORMED_S: Final = 120.0
HEALTHY_S: Final = 120.0
COMMAND_S: Final = 600.0


def compose_tool() -> list[str]:
    """The command, however old. NotFound: there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            # The older one knows limits only as something to be translated.
            return command if command[0] == "docker" else [*command, "--compatibility"]
    raise NotFound("there is neither `docker compose` nor docker-compose")


@dataclass(slots=True)
class ComposeRun:
    """One run. `seconds`: by part, as they were measured."""

    base: str  # a base image that is there already; "": one is made
    scenarios: tuple[str, ...] = SCENARIOS
    steps_max: int = STEPS_MAX  # of each scenario: its first ones
    build: bool = True  # else the image is there, from an earlier run
    seconds: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    _clock: RealClock = field(default_factory=RealClock)
    _began_ns: int = 0
    _up: bool = False
    _tool: list[str] = field(default_factory=list)

    def run(self) -> bool:
        """Whether every scenario passed. StorageError: it could not be brought so far."""
        engine = Engine(socket_of(os.environ.get("DOCKER_HOST", "")))
        engine.call("GET", "/_ping")
        self._tool = compose_tool()
        self._began_ns = self._clock.now_ns()
        try:
            if self.build:
                self.make_image()
            if self.scenarios:
                self._start()
            for number, name in enumerate(self.scenarios):
                if number + 1 == len(self.scenarios):
                    # Before the last one: what has been restarted just now is not looked at yet.
                    self._see_health(engine)
                self._play(name)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not leave half of it
            self._stop()
        return all(result.verdict.code == PASS for result in self.results)

    def _part(self, name: str) -> None:
        """What went on since the last part has this name."""
        now_ns = self._clock.now_ns()
        self.seconds[name] = (now_ns - self._began_ns) / NS_PER_S
        self._began_ns = now_ns
        output.say(f"{self.seconds[name]:7.1f} s  {name}")

    def _command(self, *command: str, check: bool = True) -> str:
        """Its output. ConfigError with the end of it when it fails."""
        environment = {
            **os.environ, "COMPOSE_PROJECT_NAME": PROJECT, "EIGHTFOLD_IMAGE": IMAGE,
            "EIGHTFOLD_BROKER_IMAGE": self.base or BASE,
        }  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=COMMAND_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"{' '.join(command)}: {error}") from None
        if check and done.returncode:
            raise ConfigError(f"{' '.join(command)}: {done.stdout.strip()[-2000:]}")
        return done.stdout

    # ------------------------------------------------------------------ the image

    def make_image(self) -> None:
        """Of what lies here. ConfigError: it could not be built."""
        arguments = ["--build-arg", f"BASE={self.base or BASE}"]
        if not self.base:
            # A new one each time would throw away all that was built on it.
            if not self._command("docker", "images", "--quiet", BASE).strip():
                self._command("bash", "configs/compose/base-image.sh", BASE)
            self._part("base image")
            self._wheels()
            arguments += ["--build-arg", "PIP_OPTIONS=--no-index"]
            self._part("wheels")
        self._command("docker", "build", "--quiet", *arguments, "--tag", IMAGE, ".")
        self._part("image")

    def _wheels(self) -> None:
        """For the Python of the base image, since nothing can be fetched inside of the build."""
        about = (ROOT / "pyproject.toml").read_bytes()
        mark = WHEELS / "made-of"
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", PYTHON)
        wheel = (*pip, "wheel", "--quiet", "--wheel-dir", str(WHEELS))
        if not mark.exists() or mark.read_bytes() != about:
            shutil.rmtree(WHEELS, ignore_errors=True)
            WHEELS.mkdir(parents=True)
            self._command(*pip, "download", "--quiet", "--no-deps", "--dest", str(WHEELS), "pip")
            next(WHEELS.glob("pip-*.whl")).rename(WHEELS / "pip.whl")
            needed = tomllib.loads(about.decode())["project"]["dependencies"]
            self._command(*wheel, *(each for each in needed if not each.startswith(NOT_IN_IMAGES)))
        for old in WHEELS.glob("eightfold-*.whl"):
            old.unlink()
        self._command(*wheel, "--no-deps", ".")
        mark.write_bytes(about)

    # ------------------------------------------------------------------ the cluster

    def _start(self) -> None:
        self._command("sh", "configs/compose/secrets.sh")
        self._up = True
        self._command(*self._tool, "up", "--detach", "--no-build")
        self._part("containers started")
        self._until("all nodes serve hosts", self._formed, FORMED_S)
        self._part("cluster formed")

    def _until(self, what: str, condition: object, seconds: float) -> None:
        assert callable(condition)
        until_ns = self._clock.now_ns() + int(seconds * NS_PER_S)
        while not condition():
            if self._clock.now_ns() > until_ns:
                raise RequestTimeout(f"{what}: not within {seconds:g} s")
            pause(0.2)

    def _formed(self) -> bool:
        """Every node serves hosts."""
        try:
            found = outside_cluster(ENDPOINTS, ROOT / "configs" / "compose" / "secrets" / "token")
            client = ClusterClient(found, 5.0)
            try:
                answers = [each.call("GET", "/v1/ready") for each in client.clients.values()]
            finally:
                client.close()
        except StorageError:
            return False
        return len(answers) == len(found.nodes) and all(answer["ready"] for answer in answers)

    def _see_health(self, engine: Engine) -> None:
        """The engine's own checks agree."""

        def healthy() -> bool:
            found = engine.containers(NODE_LABEL)
            return all("(healthy)" in each.status for each in found)

        self._until("the engine calls all nodes healthy", healthy, HEALTHY_S)
        self._part("all healthy")

    def _stop(self) -> None:
        if self._up:
            told = self._command(
                *self._tool, "down", "--volumes", "--remove-orphans", "--timeout", "5", check=False
            )
            left = Engine(socket_of(os.environ.get("DOCKER_HOST", ""))).containers(NODE_LABEL)
            self._part("taken down")
            if left:
                output.warn(f"these are left: {', '.join(each.name for each in left)}\n{told}")

    # ------------------------------------------------------------------ scenarios

    def _play(self, name: str) -> None:
        scenario = read(find(name))
        timeline = scenario.timeline[: self.steps_max]
        scenario = scenario.model_copy(update={"timeline": timeline})
        command = f"eightfold scenario run {name} --on compose"
        result = perform(scenario, on="compose", seed=scenario.seed, command=command)
        self.results.append(result)
        self._part(f"{name}: {result.verdict.word}: {result.verdict.reason}")
        if result.verdict.code != PASS:
            for line in result.log:
                output.say(f"{'':11}{line.at_ms / 1000:9.3f}s  {line.event:<18} {line.text}")


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 all passed, 1 one did not, or something is missing; 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m scenario.files.compose_run",
        description="Build an image, start eight nodes and a broker in containers, run scenarios"
        " on them, take everything down.",
    )
    parser.add_argument("scenarios", nargs="*", help="names; by default five of the library")
    parser.add_argument(
        "--base", default=os.environ.get("EIGHTFOLD_BASE", ""),
        help="a base image with Python, pip and Mosquitto; by default one is made of packages of"
        " this machine",
    )  # fmt: skip
    parser.add_argument("--junit", type=Path, help="also write a JUnit XML file")
    parser.add_argument(
        "--quick", action="store_true", help=f"no more than {QUICK_STEPS} steps of each scenario"
    )
    parser.add_argument("--image-only", action="store_true", help="build the image, no more")
    parser.add_argument("--no-build", action="store_true", help="the image is there already")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    scenarios = () if options.image_only else tuple(options.scenarios) or SCENARIOS
    steps_max = QUICK_STEPS if options.quick else STEPS_MAX
    run = ComposeRun(options.base, scenarios, steps_max, build=not options.no_build)
    try:
        passed = run.run()
    except StorageError as error:
        output.warn(f"compose-test: error: {error}")
        passed = False
    except KeyboardInterrupt:
        output.warn("compose-test: interrupted")
        return 130
    if options.junit is not None:
        options.junit.write_text(junit(run.results), encoding="utf-8")
    output.say(
        f"compose-test: {'passed' if passed else 'FAILED'}, {sum(run.seconds.values()):.0f} s"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
