"""Run an experiment on devices: follow the run, and start again what was killed."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fedrec.errors import EngineError
from fedrec.flower.followed import FollowedFile
from fedrec.flower.superlink import SuperLink
from fedrec.runs.fleet import read_fleet
from fedrec.runs.folder import FINISHED, ROUNDS
from fedrec.runs.log import read_log
from fedrec.runs.progress import Progress
from fedrec.runs.reader import RunFolder
from fedrec.storage.files import is_held

LOG = logging.getLogger("fedrec")
LOOK_SECONDS = 15.0
"""Between two looks at the run and at the nodes, for which Flower computes a second or two."""
READ_SECONDS = 1.0
"""Between two looks at the log and the rounds, which are files here."""
TRIES = 3
"""Starts in a row that bring no new round, after which a run is given up."""


def serve(superlink: SuperLink, folder: Path, progress: Progress) -> None:
    """Run what a run folder holds on the devices of a SuperLink, to its end.

    A run that breaks off, as when a device or a process is killed, goes on from its checkpoint.

    Args:
        superlink: Which was started, and knows the devices.
        folder: The run folder, as from `fedrec.runs.fleet.prepare_fleet`.
        progress: Shows rounds and lines.

    Raises:
        EngineError: If the run breaks off again and again, or was done before.
    """
    follower, tries, last = _Follower(superlink, folder, progress), 0, -1
    while not is_finished(folder):
        rounds = len(read_log(folder / ROUNDS))
        tries = 1 if rounds > last else tries + 1
        if tries > TRIES:
            raise EngineError(
                f"{follower.why or 'the run breaks off'} (tried {TRIES} times); see "
                f"{superlink.log}; continue it with fedrec serve --resume {folder}"
            )
        if last >= 0:
            LOG.warning(f"the run has broken off: {follower.why or 'killed'}; it goes on")
        last = rounds
        if not superlink.is_up:
            superlink.start()
        while is_held(folder / ROUNDS):  # by what a killed run has left behind
            time.sleep(1)
        follower.follow(superlink.submit(folder))


def is_finished(folder: Path) -> bool:
    """Return whether a run came to its end."""
    return RunFolder(folder).result.get("status") in FINISHED


class _Follower:
    """Shows what a run says and does.

    Attributes:
        why: The last error that the server's app named.
    """

    def __init__(self, superlink: SuperLink, folder: Path, progress: Progress) -> None:
        self._superlink, self._folder, self._progress = superlink, folder, progress
        self._keys = {device.node: device.key for device in read_fleet(folder).devices}
        self._lines = FollowedFile(superlink.app_log)
        self._shown, self._counts = 0, ""
        self.why = ""
        if rounds := read_log(folder / ROUNDS):
            progress.follow(rounds)
            self._shown = rounds[-1].round

    def follow(self, run: str) -> None:
        """Show a run of Flower's until it ends, or the SuperLink does."""
        self.why, status, looked = "", "", 0.0
        while self._superlink.is_up and not status.startswith("finished"):
            time.sleep(READ_SECONDS)
            self._show_lines()
            self._show_rounds()
            now = time.monotonic()
            if self.why or is_finished(self._folder) or now > looked + LOOK_SECONDS:
                looked = now
                try:
                    status, nodes = self._superlink.look(run)
                except EngineError:  # it may have been killed
                    continue
                self._show_nodes(nodes)

    def _show_nodes(self, nodes: Mapping[int, str]) -> None:
        states = {key: nodes.get(node, "unknown") for node, key in self._keys.items()}
        counts = Counter(states.values())
        text = f"devices: {counts['online']} of {len(states)} online"
        away = [key.removesuffix(".pub") for key, state in states.items() if state != "online"]
        if text != self._counts:
            LOG.info(text + (f", not {', '.join(away[:5])}" if away else ""))
        self._counts = text

    def _show_lines(self) -> None:
        for line in self._lines.lines():
            level, _, text = line.partition(": ")
            LOG.log(logging.getLevelNamesMapping().get(level, logging.INFO), text or line)
            if level == "ERROR":
                self.why = text

    def _show_rounds(self) -> None:
        for record in read_log(self._folder / ROUNDS):
            if record.round > self._shown:
                self._shown = record.round
                up, down = (getattr(record.bytes, way) / 2**20 for way in ("up", "down"))
                self._progress.fleet = f"{up:.1f} MiB up, {down:.1f} down"
                self._progress.show(record)
