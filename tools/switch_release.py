"""`python3 switch_release.py to NAME | back | lay NAME | revert`: what a robot runs.

```
/opt/appliance/releases/1.4.0/                   made by install_release.py
/opt/appliance/deployments/1.4.0-3f9a12c0/       a release with its configuration and its unit
    release -> ../../releases/1.4.0
    appliance.toml
    units/appliance.service, units/appliance.service.d/*.conf
/opt/appliance/current, previous -> deployments/...
/opt/appliance/trial                             there while `current` is not proven; names what is
/opt/appliance/.current.back                     leads to that, to go back where the disk is full;
                                                 its unit lies ready as well
/opt/appliance/served.json                       how each served when another one was to take over
```

The next deployment stands by beside the one that serves, and loads its models. Only when it is up
does the other one end; then it serves, and is watched for a while. What does not become healthy is
ended, and the former one serves again: for a failure before the handover it never stopped. When
`current` has been switched, the unit of the box takes over in the same way. Phase by phase, the
last one where nothing serves:

```
phase        current  trial   appliance.service         appliance-next.service   undone by
stands by    former   -       former serves             next loads, stands by    _withdraw
on trial     former   former  former stands by again    next serves, is watched  _restore
taken over   next     former  next loads, stands by     next serves              _restore
watched      next     former  next serves, is watched   -                        _restore
proven       next     -       next serves               -                        back
started      next     former  next loads, is watched    -                        _stop
```

`previous` leads to the former one once the next is proven, unless it is a rollback.

A deployment has to be ready, with all models. One that is gone back to has to be as well as it was
when it served.

What is done here goes on when whoever started it is gone. After a power cut in the middle,
`revert`, which runs before the appliance at each boot, goes back to what was proven. Where only
this process was killed, the next `to` or `back` first brings the trial to an end.

Runs as root; needs Python 3.10, systemd, and nothing else. Prints one line, which begins with
`changed` or `unchanged`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

UNIT, NEXT_UNIT = "appliance.service", "appliance-next.service"
ROOT, ADMIN_SOCKET = Path("/opt/appliance"), Path("/run/appliance/appliance.sock")
UNITS, TRANSIENT_UNITS = Path("/etc/systemd/system"), Path("/run/systemd/system")
BACK = ".back"  # ends the names of what a trial goes back by
REMOVED = ".removed-"  # begins the name of what is being removed, so that its own is free at once
LOOK_S = 0.1
ASK_S = 2.0
SYSTEMCTL_S = 120.0
MAX_STATUS_BYTES = 16 << 20
ROLLBACK = "rollback"
NEXT = """\
# Over the unit of the deployment: how it runs until it has proven itself.
[Unit]
Description=Inference appliance, the next deployment

[Service]
ExecStart=
ExecStart={root}/next/release/bin/appliance serve --standby --config {root}/next/appliance.toml
Restart=no
# Both have all models loaded: where memory is short, this one goes, and not the one that serves.
OOMScoreAdjust=500
"""
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]*")


class Failed(Exception):
    """It was not switched; the message says why, and what serves now."""


class Patience(NamedTuple):
    """How long is waited, in seconds.

    Attributes:
        load: For models to be loaded and warmed up.
        hand_over: For one to finish what it has accepted, and the other to be ready.
        hold: That it has to stay healthy for.
    """

    load: float = 600.0
    hand_over: float = 60.0
    hold: float = 3.0


class Health(NamedTuple):
    """How a deployment served.

    Attributes:
        is_ready: Everything was well.
        models: Those that were ready, by name.
    """

    is_ready: bool
    models: frozenset[str]

    @classmethod
    def of(cls, status: dict[str, Any]) -> Health:
        """Return that of one that serves."""
        return cls(status["state"] == "ready", frozenset(_models(status, "ready")))

    def is_kept_by(self, status: dict[str, Any]) -> bool:
        """Return whether one that serves, or stands by, is as well; it has loaded its models.

        A model that was not ready then does not count, be it that it came since.
        """
        if not self.models <= _models(status, "ready") or _models(status, "loading"):
            return False
        is_only_for_models = len(status["reasons"]) == len(_models(status, "failed"))
        return not self.is_ready or is_only_for_models


class Paths(NamedTuple):
    """Where everything is on a robot."""

    root: Path = ROOT
    units: Path = UNITS
    transient_units: Path = TRANSIENT_UNITS
    admin_socket: Path = ADMIN_SOCKET

    @property
    def deployments(self) -> Path:
        """All of them, by name."""
        return self.root / "deployments"

    @property
    def releases(self) -> Path:
        """What deployments are made of, by version."""
        return self.root / "releases"

    @property
    def trial(self) -> Path:
        """Names what to go back to."""
        return self.root / "trial"

    @property
    def served(self) -> Path:
        """Says how deployments served."""
        return self.root / "served.json"

    def tried(self) -> tuple[str, bool]:
        """Return what a trial goes back to, if to anything, and whether it is a rollback itself."""
        if not self.trial.exists():
            return "", False
        proven, *words = self.trial.read_text(errors="replace").splitlines() or [""]
        return proven, words == [ROLLBACK]

    def named_by(self, link: str) -> str:
        """Return the name of the deployment that a link leads to; empty: it leads to none."""
        path = self.root / link
        to = self.root / path.readlink() if path.is_symlink() else path
        return to.name if to.parent == self.deployments else ""


class Box:
    """The robot, as far as it is changed here."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def systemctl(self, *words: str) -> bool:
        """Run it; return whether it did what it was told."""
        try:
            done = subprocess.run(
                ["systemctl", *words],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
                timeout=SYSTEMCTL_S,
            )
        except subprocess.TimeoutExpired:
            say(f"systemctl {' '.join(words)}: does not end")
            return False
        if done.returncode and done.stderr.strip() and words[0] != "reset-failed":
            say(f"systemctl {' '.join(words)}: {done.stderr.strip()}")
        return done.returncode == 0

    def is_up(self, unit: str) -> bool:
        """Return whether a unit runs, starts, or is to start; what cannot be known is taken so."""
        shown = self._shown(unit)
        return shown.get("ActiveState") not in ("inactive", "failed") or "Job" in shown

    def main_pid(self, unit: str) -> int:
        """Return the process of a unit; 0: it has none."""
        return int(self._shown(unit).get("MainPID") or 0)

    def _shown(self, unit: str) -> dict[str, str]:
        """Return what systemd says of a unit; `Job` only if there is one, be it still to begin."""
        words = ["systemctl", "show", "--property=ActiveState,Job,MainPID", unit]
        found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        said = (line.partition("=") for line in found.stdout.splitlines())
        return {name: value for name, _, value in said if value}

    def status(self, *, standby: bool = False) -> dict[str, Any]:
        """Return the status of the appliance that serves, or stands by.

        Empty: nobody answers, or not as an appliance does.
        """
        try:
            found = json.loads(self._ask(standby=standby))
        except (ValueError, RecursionError):
            return {}
        return found if _is_status(found) else {}

    def _ask(self, *, standby: bool) -> bytes:
        """Return what an appliance answers that is asked for its status; empty: nothing."""
        where = f"{self.paths.admin_socket}.standby" if standby else str(self.paths.admin_socket)
        connection = http.client.HTTPConnection("box", timeout=ASK_S)
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(ASK_S)
            connection.sock.connect(where)
            connection.request("GET", "/v1/status")
            return connection.getresponse().read(MAX_STATUS_BYTES)
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            connection.close()

    def link(self, name: str, deployment: str) -> None:
        """Let a link lead to a deployment, from one moment to the next."""
        self._made_link(name, deployment).rename(self.paths.root / name)
        self._sync()

    def _made_link(self, name: str, deployment: str) -> Path:
        made = self.paths.root / f".{name}"
        made.unlink(missing_ok=True)
        made.symlink_to(Path("deployments", deployment))
        return made

    def begin_trial(self, back_to: str, *, is_rollback: bool) -> None:
        """Write down what is gone back to, and make all it takes; empty: to nothing."""
        if (self.paths.deployments / back_to / "units" / UNIT).is_file():
            self._write_units(back_to, BACK)
            self._made_link(f"current{BACK}", back_to)
        words = [back_to, *([ROLLBACK] if is_rollback else []), ""]
        self._write(self.paths.trial, "\n".join(words))
        self._sync()

    def _write(self, path: Path, text: str) -> None:
        """Let a file say this, from one moment to the next."""
        made = path.with_name(f".{path.name}")
        made.write_text(text)
        self._sync()
        made.rename(path)

    def noted(self) -> dict[str, Health]:
        """Return how deployments served, by name, as far as that can be read."""
        try:
            found = json.loads(self.paths.served.read_bytes())
            return {name: Health(bool(a), frozenset(map(str, b))) for name, (a, b) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def note(self, deployment: str, health: Health) -> None:
        """Write down how a deployment serves."""
        notes = {**self.noted(), deployment: health}
        known = {n: (a, sorted(b)) for n, (a, b) in notes.items() if self._is_there(n)}
        self._write(self.paths.served, json.dumps(known))

    def _is_there(self, deployment: str) -> bool:
        return (self.paths.deployments / deployment).is_dir()

    def end_trial(self) -> None:
        """What runs is proven."""
        units, link = self.paths.units, self.paths.root / f".current{BACK}"
        for left in (self.paths.trial, link, units / f".{UNIT}{BACK}"):
            left.unlink(missing_ok=True)
        shutil.rmtree(units / f".{UNIT}.d{BACK}", ignore_errors=True)
        self._sync()

    def go_back(self, deployment: str) -> bool:
        """Use a deployment again by what its trial has made; return whether it is used now.

        That needs no space. Where it is cut short, it is finished the next time. Once it is done,
        nothing is left to do it by.
        """
        link = self.paths.root / f".current{BACK}"
        if self.paths.named_by(link.name) == deployment:
            self._put_units(BACK)
            link.rename(self.paths.root / "current")
            self._sync()
            return True
        return deployment == self.paths.tried()[0] == self.paths.named_by("current")

    def goes_back_to(self, deployment: str) -> bool:
        """Return whether going back to a deployment was begun, and cut short."""
        begun = not (self.paths.units / f".{UNIT}.d{BACK}").is_dir()
        return begun and self.paths.named_by(f".current{BACK}") == deployment

    def _sync(self) -> None:
        os.sync()  # a power cut is not to bring back a link without what it leads to

    def lay_units(self, deployment: str) -> None:
        """Make the unit of a deployment that of the box; a site's own drop-ins stay."""
        self._write_units(deployment)
        self._put_units()

    def _write_units(self, deployment: str, end: str = "") -> None:
        """Write a unit and its drop-ins beside those of the box, under names with this end."""
        units, laid = self.paths.units, self.paths.units / f"{UNIT}.d"
        beside, former = units / f".{UNIT}.d{end}", units / f".{UNIT}.d.former"
        if former.is_dir() and not laid.exists():
            former.rename(laid)  # one that was cut short between the renames below
        for left in (beside, former):
            shutil.rmtree(left, ignore_errors=True)
        self._lay_drop_ins(deployment, beside)
        shutil.copyfile(
            self.paths.deployments / deployment / "units" / UNIT, units / f".{UNIT}{end}"
        )
        self._sync()

    def _put_units(self, end: str = "") -> None:
        """Let what was written beside take its place, as far as it has not; it needs no space."""
        units, laid = self.paths.units, self.paths.units / f"{UNIT}.d"
        beside, former, unit = (units / f".{UNIT}{each}" for each in (f".d{end}", ".d.former", end))
        if beside.is_dir():
            shutil.rmtree(former, ignore_errors=True)
            if laid.exists():
                laid.rename(former)
            beside.rename(laid)
        if unit.is_file():
            unit.rename(units / UNIT)
        self._sync()
        shutil.rmtree(former, ignore_errors=True)
        self.systemctl("daemon-reload")

    def _lay_drop_ins(self, deployment: str, folder: Path) -> None:
        """Make a folder of a deployment's drop-ins, and of those that no deployment laid."""
        made = self.paths.deployments / deployment / "units" / f"{UNIT}.d"
        ours = {each.name for each in self.paths.deployments.glob(f"[!.]*/units/{UNIT}.d/*")}
        folder.mkdir()
        if (laid := self.paths.units / f"{UNIT}.d").is_dir():
            shutil.copytree(
                laid,
                folder,
                symlinks=True,
                ignore=lambda _, names: ours.intersection(names),
                dirs_exist_ok=True,
            )
        if made.is_dir():
            shutil.copytree(made, folder, dirs_exist_ok=True)

    def lay_next_unit(self, deployment: str) -> None:
        """Make a unit, until the next boot, by which a deployment stands by."""
        self.remove_next_unit()
        made, units = self.paths.deployments / deployment / "units", self.paths.transient_units
        units.mkdir(parents=True, exist_ok=True)
        beside = units / f"{NEXT_UNIT}.d"
        self._lay_drop_ins(deployment, beside)
        (beside / "zz-next.conf").write_text(NEXT.format(root=self.paths.root))
        shutil.copyfile(made / UNIT, units / NEXT_UNIT)
        self.systemctl("daemon-reload")

    def remove_next_unit(self) -> None:
        """Clear that unit away."""
        units = self.paths.transient_units
        shutil.rmtree(units / f"{NEXT_UNIT}.d", ignore_errors=True)
        (units / NEXT_UNIT).unlink(missing_ok=True)

    def last_words(self, unit: str) -> str:
        """Return the end of what a unit wrote to the journal."""
        words = ["journalctl", "--unit", unit, "--lines=5", "--output=cat", "--no-pager"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip()

    def now_s(self) -> float:
        """Return the time, monotonic."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Switch:
    """The steps from one deployment to another."""

    def __init__(self, box: Box, patience: Patience) -> None:
        self.box, self.patience, self.paths = box, patience, box.paths
        # Of those that have to be only as well as they were: how that is.
        self._were: dict[str, Health] = {}

    def to(self, deployment: str, *, is_rollback: bool = False) -> bool:
        """Run a deployment; return whether another one, or none, ran before.

        Raises:
            Failed: It does not become healthy. What served before serves again.
        """
        self._leave_alone_what_no_deploy_made()
        if lack := self._lack(deployment):
            raise Failed(f"{lack}; deploy it again")
        is_resumed = self.paths.trial.exists()
        self._resume()
        former = self.paths.named_by("current")
        self._ask_no_more_than_before(deployment if is_rollback else "")
        status = self._wait_serving(former) if former else {}
        if former == deployment and self.box.is_up(UNIT):
            self._wait_healthy(UNIT, deployment, self.patience.hand_over, hold=False)
            self.box.end_trial()
            self._clear()
            return is_resumed
        if status:
            self._were[former] = Health.of(status)
            self._upgrade(deployment, former, is_rollback=is_rollback)
        else:
            self._start(deployment, former, is_rollback=is_rollback)
        return True

    def back(self) -> bool:
        """Run the deployment before this one; if a deploy was cut short, what was proven before it.

        `previous` stays what was gone back to: only the next deploy changes it.

        Raises:
            Failed: There is none, it was gone back to before, or it does not become healthy.
        """
        _, was_rollback = self.paths.tried()
        undone = self._resume()
        if undone and not was_rollback:
            self.to(undone, is_rollback=True)
            return True
        previous, current = self.paths.named_by("previous"), self.paths.named_by("current")
        if not previous:
            raise Failed("there is no previous deployment to go back to")
        if previous != current:
            return self.to(previous, is_rollback=True)
        if not was_rollback:
            raise Failed(f"already rolled back to {current}, and nothing older is proven here")
        return True  # one that was cut short is finished

    def lay(self, deployment: str) -> bool:
        """Let a deployment be what the next boot runs, as in an image; nothing is started."""
        if lack := self._lack(deployment):
            raise Failed(f"{lack}; deploy it again")
        if self.paths.named_by("current") == deployment:
            return False
        self._use(deployment)
        self.box.systemctl("enable", UNIT)
        return True

    def revert(self) -> bool:
        """At boot: go back to what was proven, if the machine went down during a trial.

        If that is not there any more, to what was proven before it, or else to whatever is whole.
        """
        if not self.paths.trial.exists():
            return False
        proven, _ = self.paths.tried()
        links = [self.paths.named_by(link) for link in ("previous", "current")]
        others = [path.name for path in self._newest()]
        for each in filter(None, dict.fromkeys((proven, *links, *others))):
            if lack := self._lack(each):
                say(f"cannot go back to {each}: {lack}")
                continue
            try:
                self._use_again(each)
            except OSError as error:
                is_now = self.paths.named_by("current") or "nothing"
                raise Failed(f"cannot go back to {each}, {is_now} runs: {error}") from None
            say(f"the machine went down before its deployment was proven: it runs {each}")
            break
        else:
            say("there is no deployment that could be run; deploy one")
        self.box.end_trial()
        return True

    def prune(self, keep: int) -> bool:
        """Remove all but the newest deployments, and releases that none of them needs.

        What cannot be removed is said, and stays. So does a release that no deployment is made of
        yet: it is newer than the oldest one that is kept.
        """
        for folder in (self.paths.deployments, self.paths.releases):
            for left in folder.glob(f"{REMOVED}*"):  # of a run that was cut short
                _discard(left)
        used = {self.paths.named_by(link) for link in ("current", "previous", "next")}
        newest = self._newest()
        kept = [each for place, each in enumerate(newest) if place < keep or each.name in used]
        kept_s = min((each.stat().st_mtime for each in kept), default=0.0)
        had = {_release_of(each) for each in newest}
        removed = [_remove(each) for each in newest if each not in kept]
        needed = {_release_of(each) for each in self._newest()}
        for each in self.paths.releases.glob("[!.]*"):
            is_waiting = each.name not in had and each.stat().st_mtime > kept_s
            if each.name not in needed and not is_waiting:
                removed.append(_remove(each))
        return any(removed)

    def _newest(self) -> list[Path]:
        """Return all deployments, the newest first; one that is being made has a dot."""
        found = self.paths.deployments.glob("[!.]*")
        return sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)

    # ----------------------------------------------------------------------------------- steps

    def _lack(self, deployment: str) -> str:
        """Return why a deployment cannot be run, whatever it does; empty: it is whole."""
        path = self.paths.deployments / deployment
        if not _NAME.fullmatch(deployment) or not path.is_dir():
            there = sorted(each.name for each in self._newest())
            return f"{path}: no such deployment; there are: {', '.join(there) or 'none'}"
        needed = (path / "release/bin/appliance", path / "appliance.toml", path / "units" / UNIT)
        return next((f"{each}: is missing" for each in needed if not each.exists()), "")

    def _leave_alone_what_no_deploy_made(self) -> None:
        current = self.paths.root / "current"
        is_there = current.is_symlink() or current.exists() or self.box.is_up(UNIT)
        if is_there and not self.paths.named_by("current"):
            raise Failed(
                f"what is here was installed by hand: {current} is no link to a deployment, and "
                f"{UNIT} may serve; end it and move {current} away"
            )

    def _resume(self) -> str:
        """Bring a switch that was cut short, its process and not the machine, to an end.

        One that has come as far as `current` is finished, if it can be; else it is undone.

        Returns:
            What was gone back to; empty: nothing was cut short, or it is finished.

        Raises:
            Failed: It can be neither finished nor undone.
        """
        if not self.paths.trial.exists():
            return ""
        (proven, was_rollback), current = self.paths.tried(), self.paths.named_by("current")
        if self._lack(proven):
            proven = ""
        self._ask_no_more_than_before(proven, current if was_rollback else "")
        say(f"a switch was cut short here: {current or 'nothing'} is current")
        try:
            if proven and (proven == current or self.box.goes_back_to(proven)):
                say(self._restore(proven))
            elif proven:
                self._finish(current, proven)
            elif current:
                with self._else(lambda: self._stop(current, "")):
                    self._wait_serving(current)
                    self._wait_healthy(UNIT, current, self.patience.hand_over)
                    self._prove("")
            else:
                self.box.end_trial()
        except Exception as broke:  # noqa: BLE001
            if self.paths.trial.exists() and self.paths.named_by("current") != proven:
                raise Failed(_told(broke)) from None
            say(_told(broke))
        return proven if self.paths.named_by("current") == proven else ""

    def _start(self, deployment: str, former: str, *, is_rollback: bool) -> None:
        """Start a deployment where nothing serves."""
        self._clear()
        before = former if former != deployment else ""
        with self._else(lambda: self._stop(deployment, former)):
            if former != deployment:
                self.box.begin_trial(former, is_rollback=is_rollback)
            self._use(deployment)
            self.box.systemctl("enable", UNIT)
            self._begin(UNIT, "restart")
            self._wait_healthy(UNIT, deployment, self.patience.load)
            self._prove(before)

    def _stop(self, deployment: str, former: str) -> str:
        """Stop what was started where nothing served; say what there is now."""
        self.box.systemctl("stop", UNIT)
        if former and former != deployment:
            if self.paths.named_by("current") != former:
                self._use_again(former)
            self._begin(UNIT)
            self.box.end_trial()
            return f"{former} did not serve before, and is started"
        if not former:
            self.box.systemctl("disable", UNIT)
            (self.paths.root / "current").unlink(missing_ok=True)
        self.box.end_trial()
        return "nothing served before, and it is stopped"

    def _upgrade(self, deployment: str, former: str, *, is_rollback: bool) -> None:
        """Let a deployment take over from one that serves."""
        self._clear()
        with self._else(lambda: self._withdraw(former)):
            self.box.note(former, self._were[former])
            self._stand_by(deployment)
            self.box.begin_trial(former, is_rollback=is_rollback)
        with self._else(lambda: self._restore(former)):
            self.box.systemctl("stop", UNIT)
            # The former one stands by in turn, should the next one break.
            self._begin(UNIT)
            self._wait_healthy(NEXT_UNIT, deployment, self.patience.hand_over)
            self.box.systemctl("stop", UNIT)
        self._finish(deployment, former)

    def _finish(self, deployment: str, former: str) -> None:
        """Make one that has stood by, and serves, what the box runs."""
        with self._else(lambda: self._restore(former)):
            self._use(deployment)
            self._relieve_next(deployment)
            self._prove(former)
        self._clear()

    @contextlib.contextmanager
    def _else(self, undo: Callable[[], str]) -> Generator[None, None, None]:
        """Undo steps of which one fails, at whatever: a full disk, or a mistake in here.

        Raises:
            Failed: One did; it says what `undo` has said.
        """
        try:
            yield
        except Exception as broke:  # noqa: BLE001
            try:
                undone = undo()
            except Exception as also:  # noqa: BLE001
                undone = f"AND IT IS NOT UNDONE: {_told(also)}"
            raise Failed(f"{_told(broke)}; {undone}") from None

    def _prove(self, former: str) -> None:
        """What runs is what the next failure goes back to; `former` comes before it."""
        _, is_rollback = self.paths.tried()
        if former and not is_rollback:
            self.box.link("previous", former)
        self.box.end_trial()

    def _withdraw(self, former: str) -> str:
        """End one that stands by."""
        self._clear()
        self.box.end_trial()
        return f"{former} has served all the while"

    def _stand_by(self, deployment: str) -> None:
        self.box.link("next", deployment)
        self.box.lay_next_unit(deployment)
        self._begin(NEXT_UNIT)
        self._wait_loaded(NEXT_UNIT, deployment)

    def _relieve_next(self, deployment: str) -> None:
        """Let the unit of the box take over from the one that stood by."""
        self._begin(UNIT)
        self._wait_loaded(UNIT, deployment)
        self.box.systemctl("stop", NEXT_UNIT)
        self._wait_healthy(UNIT, deployment, self.patience.hand_over)

    def _restore(self, former: str) -> str:
        """Run the former deployment again; say how that went."""
        if self.paths.named_by("current") != former:
            self.box.systemctl("stop", UNIT)
            self._use_again(former)
        self._begin(UNIT)
        if self.box.is_up(NEXT_UNIT):  # it may answer some until the former one is loaded
            with contextlib.suppress(Failed):
                self._wait_loaded(UNIT, former)
        self.box.systemctl("stop", NEXT_UNIT)
        try:
            self._serve_alone(former)
        except Failed as failed:
            return f"AND {former} IS NOT HEALTHY AGAIN: {failed}"
        self.box.end_trial()
        self._clear()
        return f"{former} serves again, and is healthy"

    def _serve_alone(self, former: str) -> None:
        """Wait until it is healthy; what had no room beside the other one is started again."""
        try:
            self._wait_serving(former)
            self._wait_healthy(UNIT, former, self.patience.hand_over)
        except Failed:
            status = self.box.status()
            if status and len(_models(status, "ready")) == len(status["models"]):
                raise  # it serves all it has: to start it again would only interrupt that
            self._begin(UNIT, "restart")
            self._wait_healthy(UNIT, former, self.patience.load)

    def _begin(self, unit: str, verb: str = "start") -> None:
        """Start a unit, however often it has failed; what comes of it is waited for elsewhere."""
        self.box.systemctl("reset-failed", unit)
        self.box.systemctl(verb, "--no-block", unit)

    def _ask_no_more_than_before(self, *deployments: str) -> None:
        """Let these be as they were when they served, and all others be ready."""
        self._were = {n: was for n, was in self.box.noted().items() if n in deployments}

    def _use(self, deployment: str) -> None:
        self.box.link("current", deployment)
        self.box.lay_units(deployment)

    def _use_again(self, deployment: str) -> None:
        """Use a deployment by what its trial has made for that, or else as any other."""
        if not self.box.go_back(deployment):
            self._use(deployment)

    def _clear(self) -> None:
        """Leave nothing of one that stood by."""
        if self.box.is_up(NEXT_UNIT):
            self.box.systemctl("stop", NEXT_UNIT)
        self.box.remove_next_unit()
        (self.paths.root / "next").unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------ waits

    def _wait_serving(self, deployment: str) -> dict[str, Any]:
        """Return the status of what serves; wait while it loads, or is slow to answer.

        Empty: nothing does. One that is up and does not answer at all, for as long as a handover
        may take, does not.
        """
        until_s = self.box.now_s() + self.patience.load
        silent_until_s = self.box.now_s() + self.patience.hand_over
        while self.box.is_up(UNIT):
            if (status := self.box.status()).get("state") in ("ready", "degraded"):
                return status
            if self.box.status(standby=True):
                silent_until_s = self.box.now_s() + self.patience.hand_over
            if self.box.now_s() >= min(until_s, silent_until_s):
                say(f"{deployment} does not serve: {self._why(UNIT, standby=True)}")
                return {}
            self.box.sleep(LOOK_S)
        return {}

    def _wait_healthy(
        self, unit: str, deployment: str, patience_s: float, *, hold: bool = True
    ) -> None:
        """Wait until it serves and is ready, and see that it stays so."""

        def is_healthy() -> bool:
            return self._is_ready(unit, deployment)

        self._wait(is_healthy, unit, patience_s, f"{deployment} does not become healthy")
        until_s = self.box.now_s() + (self.patience.hold if hold else 0)
        while self.box.now_s() < until_s:
            self.box.sleep(LOOK_S)
            if not is_healthy():
                raise Failed(f"{deployment} did not stay healthy: {self._why(unit)}")

    def _wait_loaded(self, unit: str, deployment: str) -> None:
        """Wait until it could take over; or has, if who served has died meanwhile."""
        self._wait(
            lambda: self._is_loaded(deployment) or self._is_ready(unit, deployment),
            unit,
            self.patience.load,
            f"{deployment} does not load",
            standby=True,
        )

    def _is_loaded(self, deployment: str) -> bool:
        """Return whether one that stands by could serve everything."""
        status = self.box.status(standby=True)
        return status.get("state") == "standby" and self._is_well(deployment, status)

    def _is_ready(self, unit: str, deployment: str) -> bool:
        """Return whether a unit serves a deployment, and everything is well."""
        release = _release_of(self.paths.deployments / deployment)
        status = self.box.status()
        version = release.partition("-")[0]
        if status.get("state") not in ("ready", "degraded") or status.get("version") != version:
            return False
        is_this = status.get("pid") == self.box.main_pid(unit)
        return is_this and self._is_well(deployment, status)

    def _is_well(self, deployment: str, status: dict[str, Any]) -> bool:
        was = self._were.get(deployment)
        if was and was.is_kept_by(status):
            return True
        if status["state"] == "standby":
            return len(_models(status, "ready")) == len(status["models"])
        return status["state"] == "ready"

    def _wait(
        self,
        holds: Callable[[], bool],
        unit: str,
        patience_s: float,
        what: str,
        *,
        standby: bool = False,
    ) -> None:
        until_s = self.box.now_s() + patience_s
        while not holds():
            if not self.box.is_up(unit):
                raise Failed(f"{what}: {unit} has ended: {self.box.last_words(unit)}")
            if self.box.now_s() >= until_s:
                why = self._why(unit, standby=standby)
                raise Failed(f"{what}, waited {patience_s:.0f} s: {why}")
            self.box.sleep(LOOK_S)

    def _why(self, unit: str, *, standby: bool = False) -> str:
        status = self.box.status(standby=standby)
        if not status:
            return f"it does not answer; it said: {self.box.last_words(unit)}"
        reasons = "; ".join(status["reasons"]) or "no reason given"
        return f"version {status.get('version')}, {status.get('state')}: {reasons}"


def _release_of(deployment: Path) -> str:
    return (deployment / "release").resolve().name


def _remove(folder: Path) -> bool:
    """Remove what is not needed any more; return whether it is not there by its name.

    What is there by its name is whole, also where this is cut short.
    """
    removed = folder.with_name(f"{REMOVED}{folder.name}")
    try:
        folder.rename(removed)
    except OSError as error:
        say(f"{folder} is not needed, and cannot be removed: {error}")
        return False
    if _discard(removed):
        say(f"removed {folder}")
    return True


def _discard(removed: Path) -> bool:
    try:
        shutil.rmtree(removed)
    except OSError as error:
        say(f"{removed} is not needed, and cannot be removed: {error}")
        return False
    return True


def _is_status(found: Any) -> bool:
    """Whether that is the status of an appliance, as far as it is read here."""
    try:
        texts = [found["state"], found["version"], *found["reasons"]]
        texts += [text for each in found["models"] for text in (each["name"], each["state"])]
    except (TypeError, KeyError):
        return False
    return all(isinstance(text, str) for text in texts)


def _models(status: dict[str, Any], state: str) -> set[str]:
    return {each["name"] for each in status["models"] if each["state"] == state}


def _told(error: Exception) -> str:
    """Return what an error says, with its kind where nobody has foreseen it."""
    foreseen = isinstance(error, Failed | OSError | subprocess.SubprocessError)
    return str(error) if foreseen else f"{type(error).__name__}: {error}"


def say(text: str) -> None:
    """Tell whoever waits, or the journal."""
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # whoever waited has gone; what is done here goes on
        print(text, file=stream, flush=True)


@contextlib.contextmanager
def alone(root: Path) -> Generator[None, None, None]:
    """Let nobody else switch meanwhile.

    Raises:
        Failed: Somebody does.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".switching").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed("another deploy is under way here; wait until it is over") from None
        yield


def main() -> int:
    """Switch; 0 if what was asked for runs and is healthy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Patience()
    parser.add_argument("--load-s", type=float, default=default.load, metavar="S")
    parser.add_argument("--hand-over-s", type=float, default=default.hand_over, metavar="S")
    parser.add_argument("--hold-s", type=float, default=default.hold, metavar="S")
    parser.add_argument(
        "--keep", type=int, metavar="N", help="then remove all but the newest deployments"
    )
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("to", help="run a deployment").add_argument("name", metavar="NAME")
    what.add_parser("lay", help="run it from the next boot on").add_argument("name", metavar="NAME")
    what.add_parser("back", help="run the deployment before this one")
    what.add_parser("revert", help="at boot: leave a deployment that was not proven")
    arguments = parser.parse_args()
    patience = Patience(arguments.load_s, arguments.hand_over_s, arguments.hold_s)
    box = Box(Paths())
    switch = Switch(box, patience)
    try:
        with alone(box.paths.root):
            match arguments.what:
                case "to":
                    changed = switch.to(arguments.name)
                case "lay":
                    changed = switch.lay(arguments.name)
                case "back":
                    changed = switch.back()
                case _:
                    changed = switch.revert()
            if arguments.keep is not None:
                changed |= switch.prune(arguments.keep)
    except Exception as broke:  # noqa: BLE001
        say(f"error: {_told(broke)}")
        return 1
    done = "changed" if changed else "unchanged"
    _print(f"{done}: the deployment is {box.paths.named_by('current') or 'none'}", sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
