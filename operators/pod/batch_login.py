"""How dpdispatcher logs in: to known hosts only, also with the keys of an SSH agent. Put before `batch_waiter.py`."""

import base64
import contextlib
import re
from pathlib import Path
from typing import Any


def check_logins(hostname: str, port: int, host_key: str | None, key_file: str | None = None) -> None:
    """Let dpdispatcher log in to a known host only, and with the keys of an SSH agent where no key file will do.

    By itself it trusts any host, and asks no agent.
    """
    import paramiko
    from dpdispatcher.contexts import ssh_context

    name = hostname if port == 22 else f"[{hostname}]:{port}"
    known = paramiko.HostKeys()
    if host_key:
        kind, text = host_key.split()[:2]
        known.add(name, kind, paramiko.PKey.from_type_string(kind, base64.b64decode(text)))
    else:
        for path in (Path.home() / ".ssh/known_hosts", Path("/etc/ssh/ssh_known_hosts")):
            with contextlib.suppress(OSError):
                known.load(str(path))
    kinds = set(known.lookup(name) or ())
    if not kinds:
        raise SystemExit(
            f"the host {name} is not known: compare `ssh-keyscan -p {port} {hostname}` with what its owner publishes, "
            "then put it into ~/.ssh/known_hosts, or into hpc.machine.remote_profile.host_key"
        )

    public = ""
    with contextlib.suppress(OSError):
        public = Path(f"{key_file}.pub").read_text()

    class Transport(paramiko.Transport):  # type: ignore[misc]
        def start_client(self, event: Any = None, timeout: Any = None) -> None:
            options = self.get_security_options()
            options.key_types = [kind for kind in options.key_types if re.sub("^rsa-sha2.*", "ssh-rsa", kind) in kinds]
            super().start_client(event, timeout)
            if not known.check(name, self.get_remote_server_key()):
                raise SystemExit(f"the host {name} has another key than the known one: nothing was sent to it")

        def auth_password(self, username: str, *args: Any, **more: Any) -> list[str]:
            """Called when no key file has let us in; there is no password, but perhaps an agent."""
            # Its own key first: a server ends the connection after some tries.
            keys = sorted(paramiko.Agent().get_keys(), key=lambda key: key.get_base64() not in public)
            for key in keys:
                with contextlib.suppress(paramiko.AuthenticationException):
                    return list(self.auth_publickey(username, key))
            agent = f"nor one of the {len(keys)} keys of the agent" if keys else "and there is no SSH agent with keys"
            raise SystemExit(
                f"no login to {name} as {username}: no key file without passphrase was accepted, {agent}. For a key "
                "with a passphrase: `ssh-add FILE`, then start dpgen2-sm again from that shell (docs/hpc.md)"
            )

    class Session(ssh_context.SSHSession):  # type: ignore[misc]
        # rsync is called with the checking of host keys turned off: files go over the connection that was checked.
        rsync_available = False

        def __init__(self, *args: Any, **profile: Any) -> None:
            super().__init__(*args, **{**profile, "password": ""})  # so that auth_password is called

    paramiko.Transport = Transport
    ssh_context.SSHSession = Session
