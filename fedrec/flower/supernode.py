"""A SuperNode that is started again whenever it ends."""

import logging
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fedrec.errors import ConfigError
from fedrec.flower.followed import FollowedFile
from fedrec.flower.processes import engine_variables
from fedrec.flower.programs import (
    APP_LOG,
    PARENT,
    PLACE,
    SUPERNODE,
    command,
    end_all,
    write_programs,
)

LOG = logging.getLogger("fedrec")
AGAIN_SECONDS = 15.0
"""Between two starts. A SuperLink counts a SuperNode that was killed as online for up to a minute
and refuses its key meanwhile, whatever how often it asks."""
LOG_BYTES = 2**20
_STYLE = re.compile(r"\x1b\[\d+m")
LOOK_SECONDS = 1.0
_EXITS = "Exit Code: "
SAYS_WHY_SECONDS = 3.0
_SAID = {
    "code: 2004": "the server refuses the key: it does not know it, or it still counts an earlier "
    "process of this device as online, for up to a minute",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by --ca, or is for "
    "another name than --server",
    "SuperNode ID": "connected",
}
"""What lines of a SuperNode mean."""


class SuperNode:
    """Flower's SuperNode of a device, supervised.

    Args:
        server: The address of the SuperLink, ``host:port``.
        authority: The certificate of who has signed the server's.
        key: The device's private key.
        own_file: See `clients.own_file.write_own_file`.
        state: The folder of the device's state.

    Raises:
        ConfigError: If a file is missing.
    """

    def __init__(
        self, server: str, authority: Path, key: Path, own_file: Path, state: Path
    ) -> None:
        for option, path in (("--ca", authority), ("--key", key)):
            if not path.is_file():
                raise ConfigError(f"{option}: there is no file {path}")
        self._server, self._authority, self._key = server, authority.absolute(), key.absolute()
        self._own_file, self._state = own_file.absolute(), state.absolute()
        self._folder = self._state / "supernode"
        self.log = self._folder / "supernode.log"
        self.app_log = self._folder / "app.log"

    def run(self, show: Callable[[str], None]) -> None:
        """Run SuperNodes one after the other until this process is interrupted.

        Args:
            show: Is called with a line about what happens.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        programs = write_programs(self._folder / "programs")
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
        environment = {**os.environ, **engine_variables(), "FLWR_HOME": str(self._folder)}
        environment |= {"PATH": path, PARENT: str(os.getpid()), APP_LOG: str(self.app_log)}
        environment[PLACE] = str(self._folder)
        app_lines = FollowedFile(self.app_log)
        while True:
            process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                follower = threading.Thread(target=self._follow, args=(process, show), daemon=True)
                follower.start()
                while process.poll() is None:
                    time.sleep(LOOK_SECONDS)
                    for line in app_lines.lines():
                        show(line)
            finally:
                end_all(self._folder)
            show(f"the SuperNode has ended; again in {AGAIN_SECONDS:.0f} s")
            time.sleep(AGAIN_SECONDS)

    def _command(self) -> list[str]:
        config = {"own-file": self._own_file, "state-dir": self._state / "runs"}
        text = " ".join(f'{key}="{value}"' for key, value in config.items())
        return command(
            SUPERNODE,
            *("--superlink", self._server, "--root-certificates", str(self._authority)),
            *("--auth-supernode-private-key", str(self._key), "--port", str(_free_port())),
            *("--node-config", text),
        )

    def _follow(self, process: "subprocess.Popen[bytes]", show: Callable[[str], None]) -> None:
        """Write what a SuperNode says into its log, show what matters, and end it if it failed.

        A SuperNode that is refused says that it exits, and stays.
        """
        assert process.stdout is not None
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        said = ""
        with self.log.open("ab") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                text = _STYLE.sub("", line.decode(errors="replace"))
                found = next((what for sign, what in _SAID.items() if sign in text), "")
                if found and found != said:
                    said = found
                    show(found)
                if _EXITS in text:
                    end = threading.Timer(SAYS_WHY_SECONDS, end_all, [self._folder])
                    end.daemon = True
                    end.start()


def _free_port() -> int:
    """Return a port of this machine that is free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
