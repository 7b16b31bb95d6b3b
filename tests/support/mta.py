"""Real mail servers on loopback that keep what they take: Postfix and Exim."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.pki import Issued
from tests.support.ports import free_port
from tests.support.programs import program, root_only

POSTFIX = """
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks =
myhostname = mx.test
mydestination =
smtputf8_enable = yes
virtual_mailbox_domains = postfix.test
virtual_mailbox_base = {home}
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
alias_maps =
alias_database =
smtpd_tls_chain_files = {key}, {chain}
smtpd_tls_security_level = encrypt
smtpd_tls_received_header = yes
smtpd_relay_restrictions = reject_unauth_destination
maillog_file = {home}/log
maillog_file_prefixes = /
"""
POSTFIX_SERVICES = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
EXIM = """
primary_hostname = mx.test
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
spool_directory = {home}/spool
log_file_path = {home}/log-%s
pid_file_path = {home}/pid
host_lookup =
rfc1413_query_timeout = 0s
tls_certificate = {chain}
tls_privatekey = {key}
tls_advertise_hosts = *
tls_resumption_hosts = *
exim_path = {exim}
chunking_advertise_hosts = {chunking}
pipelining_advertise_hosts = {pipelining}
smtputf8_advertise_hosts = *
received_header_text = Received: with $received_protocol tls $tls_in_ver; $tod_full
acl_smtp_mail = acl_mail
acl_smtp_rcpt = acl_rcpt
never_users =
deliver_drop_privilege = true

begin acl
acl_mail:
  accept encrypted = *
  deny message = 5.7.0 Must issue a STARTTLS command first
acl_rcpt:
  accept domains = exim.test
  deny message = 5.7.1 no relay

begin routers
all:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = {home}/mail
  maildir_format
  create_directory

begin retry
* * F,1h,1m
"""


@dataclass(frozen=True)
class Mta:
    """A server: its port and its mailbox."""

    port: int
    home: Path

    def mails(self, count: int, seconds: float = 20.0) -> list[bytes]:
        """What it has put into the mailbox, as soon as it is ``count`` mails."""
        end = time.monotonic() + seconds
        while True:
            found = [path.read_bytes() for path in sorted((self.home / "mail" / "new").glob("*"))]
            if len(found) >= count or time.monotonic() > end:
                return found
            time.sleep(0.05)

    def log(self) -> str:
        """The end of what it logged."""
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.home.glob("log*")))


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    # Not below the test's directory: that is root's alone, and these servers give up root's rights.
    home = Path(tempfile.mkdtemp(prefix="mta-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def postfix(certificate: Issued) -> Iterator[Mta]:
    """Postfix that takes mail for postfix.test, with TLS only."""
    root_only("postfix")
    command, port = program("postfix"), free_port()
    user, nobody = pwd.getpwnam("postfix"), pwd.getpwnam("nobody")
    with _home() as home:
        for name, owner in (("queue", 0), ("data", user.pw_uid), ("mail", nobody.pw_uid), ("conf", 0)):
            (home / name).mkdir()
            os.chown(home / name, owner, -1)
        chain, key = certificate.files(home)
        text = POSTFIX.format(
            home=home, uid=nobody.pw_uid, gid=nobody.pw_gid, key=key, chain=chain, daemons=_daemons()
        )
        (home / "conf" / "main.cf").write_text(text)
        (home / "conf" / "master.cf").write_text(POSTFIX_SERVICES.format(port=port))
        with _started([command, "-c", str(home / "conf"), "start-fg"], port, home) as mta:
            yield mta


def _daemons() -> str:
    found = subprocess.run(
        [program("postconf", "postfix"), "-d", "-h", "daemon_directory"],
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.strip()


@contextlib.contextmanager
def exim(certificate: Issued, chunking: bool = True, pipelining: bool = True) -> Iterator[Mta]:
    """Exim that takes mail for exim.test, with TLS only."""
    root_only("exim")
    command, port = program("exim4", "exim4-daemon-light"), free_port()
    with _home() as home:
        (home / "mail").mkdir()
        shutil.chown(home / "mail", "Debian-exim")
        chain, key = certificate.files(home)
        key.chmod(0o644)  # it reads it as its own user; the key is the test's and lives as long
        (home / "spool").mkdir()
        os.chown(home / "spool", pwd.getpwnam("Debian-exim").pw_uid, pwd.getpwnam("Debian-exim").pw_gid)
        os.chmod(home, 0o777)
        stars = ["*" if on else "" for on in (chunking, pipelining)]
        config = home / "exim.conf"
        config.write_text(
            EXIM.format(
                exim=command,
                home=home,
                port=port,
                chain=chain,
                key=key,
                chunking=stars[0],
                pipelining=stars[1],
            )
        )
        with _started([command, "-C", str(config), "-bdf", "-q1h"], port, home) as mta:
            yield mta


@contextlib.contextmanager
def _started(command: list[str], port: int, home: Path) -> Iterator[Mta]:
    with (home / "log-start").open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )
    mta = Mta(port, home)
    try:
        _await(port, process, mta)
        yield mta
    except BaseException as error:
        error.add_note(f"{command[0]} said:\n{mta.log()}")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        # Postfix's master leaves the command that started it, and outlives it: it is known by its file.
        _end_named(home / "queue" / "pid" / "master.pid")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end_named(file: Path) -> None:
    """End the process whose number is in the file, and wait until it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pid = int(file.read_text())
        for sign in (signal.SIGTERM, signal.SIGKILL):
            os.kill(pid, sign)
            end = time.monotonic() + 5
            while time.monotonic() < end:
                time.sleep(0.05)
                os.kill(pid, 0)


def _await(port: int, process: subprocess.Popen[bytes], mta: Mta, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as sock:
            if sock.recv(4) == b"220 ":
                return
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"it does not answer on port {port}:\n{mta.log()}")
        time.sleep(0.1)
