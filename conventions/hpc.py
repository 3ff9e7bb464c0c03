"""A stage's jobs on a batch system: the `hpc:` part of a stage, in the words of DP-GEN's machine.json.

No field here holds a secret. An SSH key is a file of this machine, or a Kubernetes Secret that is named here.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .cluster import EnvName, PlainJson, SecretKey, Text, refuse_secret_names
from .documents import Strict
from .forms import form

_SECRET = (
    "secrets do not belong in a configuration, which is copied to the store; log in with an SSH agent, a "
    "key file without passphrase (key_filename), or in pods with a Kubernetes Secret (hpc.ssh_key)"
)
_ELSEWHERE = {
    "group_size": "this is the stage's own `group_size`: tasks in one job",
    "para_deg": "not supported: the tasks of a job run one after the other; use a smaller group_size",
    "strategy": "not supported: a job runs one command per task, which uses the GPUs that the job was given",
    "wait_time": "not supported: use `poll`",
    "local_root": "not needed, remove it: it is the job's own folder",
}

_HOST = form(r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$", "a host's name or address alone: login.example.org")
_USER = form(r"^[A-Za-z0-9_]([A-Za-z0-9._@-]*)$", "the name of an account there: jdoe")


def _words(*known: str) -> BeforeValidator:
    """Names as dpdispatcher takes them: in any case, and without the ending `Context`."""
    names = {form.lower(): name for name in known for form in (name, name.removesuffix("Context"))}
    return BeforeValidator(lambda value: names.get(value.lower(), value) if isinstance(value, str) else value)


def _one_line(text: str) -> str:
    if re.search(r"[\r\n]", text):
        raise ValueError("each entry must be one line of the script")
    return text


def _static(text: str) -> str:
    if text.startswith("~"):
        raise ValueError(f"{text!r}: ~ is not expanded here; write the full path, or `. {text}` in prepend_script")
    if re.search(r"[$`;&|<>()*?\[\]{}~#]", text):
        raise ValueError(f"{text!r}: shell syntax belongs in prepend_script")
    return text


def _flag(text: str) -> str:
    if not text.startswith("#"):
        raise ValueError(f"{text!r}: a directive of the batch script is expected, such as '#SBATCH --mem=8G'")
    return text


def _absolute(text: str) -> str:
    if not text.startswith(("/", "~/")):
        raise ValueError(f"{text!r} is not an absolute path: /scratch/jdoe/dpgen2")
    return text


def _no_key(text: str) -> str:
    if "PRIVATE KEY" in text:
        raise ValueError("this is the key itself; give the name of its file (and replace the key)")
    return text


Line = Annotated[Text, AfterValidator(_one_line)]
Word = Annotated[Line, AfterValidator(_static)]
Flag = Annotated[Line, AfterValidator(_flag)]
KeyFile = Annotated[Text, AfterValidator(_no_key), AfterValidator(_one_line)]
Absolute = Annotated[Line, AfterValidator(_absolute)]
BatchType = Literal["Slurm", "PBS", "Torque", "SGE", "LSF", "Fugaku", "JH_UniScheduler", "Shell"]
ContextType = Literal["SSHContext", "LocalContext"]


class RemoteProfile(Strict):
    """How to reach the machine: all keys but `symlink` are for SSHContext, `symlink` is for LocalContext."""

    foreign: ClassVar[dict[str, str]] = dict.fromkeys(("password", "passphrase", "totp_secret"), _SECRET)

    hostname: Annotated[Line, Field(pattern=_HOST)] | None = Field(None, description="The login node.")
    username: Annotated[Line, Field(pattern=_USER)] | None = Field(None, description="Your account there.")
    port: int = Field(22, ge=1, le=65535, description="Port of its SSH server.")
    key_filename: KeyFile | None = Field(
        None, description="Private key file; default: ~/.ssh/id_*. With a passphrase: `ssh-add` it first."
    )
    host_key: Line | None = Field(
        None, description="The host's key as ssh-keyscan prints it: `ssh-ed25519 AAAA...`; default: known_hosts."
    )
    proxy_command: Line | None = Field(None, description="As OpenSSH's ProxyCommand, for a jump host.")
    timeout: int = Field(10, ge=1, le=3600, description="Seconds to wait for a connection.")
    tar_compress: bool = Field(True, description="Compress files for the transfer.")
    symlink: bool = Field(False, description="LocalContext: link the inputs to remote_root instead of copying them.")

    @model_validator(mode="after")
    def _host_key_form(self) -> RemoteProfile:
        if self.host_key is not None and not re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( .*)?", self.host_key):
            raise ValueError(
                "host_key: type and key as ssh-keyscan prints them, without the host: 'ssh-ed25519 AAAA...'"
            )
        return self


class Machine(Strict):
    """The batch system and the way to it."""

    foreign: ClassVar[dict[str, str]] = _ELSEWHERE

    batch_type: Annotated[BatchType, _words(*get_args(BatchType))] = Field(
        description="The batch system; Shell: none, jobs are started at once."
    )
    context_type: Annotated[ContextType, _words(*get_args(ContextType))] = Field(
        description="SSHContext: log in to submit. LocalContext: this machine or pod submits."
    )
    remote_root: Absolute = Field(description="Folder on the batch system's shared disk; each job gets one below it.")
    remote_profile: RemoteProfile = Field(RemoteProfile(), description="How to log in.")
    retry_count: int = Field(3, ge=0, le=100, description="How often a job that was killed is submitted again.")

    @model_validator(mode="after")
    def _profile_fits(self) -> Machine:
        profile = self.remote_profile
        if self.context_type == "SSHContext" and self.remote_root.startswith("~"):
            raise ValueError(
                "remote_root: ~ would be the home folder on this machine; write the full path there: "
                f"`ssh {profile.hostname or 'HOST'} 'echo $HOME'` prints it"
            )
        if self.context_type == "SSHContext" and not (profile.hostname and profile.username):
            raise ValueError("remote_profile: SSHContext needs a hostname and a username")
        if self.context_type == "LocalContext" and (profile.hostname or profile.username or profile.key_filename):
            raise ValueError("remote_profile: LocalContext does not log in; did you mean context_type: SSHContext?")
        return self


class Resources(Strict):
    """What one job requests from the batch system."""

    foreign: ClassVar[dict[str, str]] = _ELSEWHERE

    number_node: int = Field(1, ge=1, le=10**5, description="Nodes.")
    cpu_per_node: int = Field(1, ge=1, le=10**4, description="Cores on each node.")
    gpu_per_node: int = Field(0, ge=0, le=64, description="GPUs on each node.")
    queue_name: Word = Field("", description="Queue or partition; default: the batch system's.")
    custom_flags: list[Flag] = Field(
        [], description="Further directives of the batch script: '#SBATCH --time=2:00:00'."
    )
    module_purge: bool = Field(False, description="Unload all modules first.")
    module_unload_list: list[Word] = Field([], description="Modules to unload before the job.")
    module_list: list[Word] = Field([], description="Modules to load before the job.")
    source_list: list[Word] = Field([], description="Scripts to source before the job, with their arguments.")
    envs: dict[EnvName, Text | int | float | list[Text]] = Field({}, description="Environment. No secrets here.")
    prepend_script: list[Line] = Field([], description="Shell lines before the job.")
    append_script: list[Line] = Field([], description="Shell lines after a successful job.")
    kwargs: PlainJson = Field({}, description="Options of one batch system only: {custom_gpu_line: ...}.")

    @model_validator(mode="after")
    def _no_secrets(self) -> Resources:
        refuse_secret_names("envs", self.envs, "let a file on the batch system set it (source_list)")
        return self

    @property
    def gpus(self) -> int | None:
        """GPUs of a job; None where directives of the user's own may ask for some."""
        own = f"{self.custom_flags} {self.kwargs}".lower()
        return None if not self.gpu_per_node and re.search("gpu|gres", own) else self.number_node * self.gpu_per_node


class Hpc(Strict):
    """The jobs of a stage are handed to a batch system, by whatever waits for them: a process here, or a pod."""

    machine: Machine = Field(description="The batch system, and the way to it.")
    resources: Resources = Field(Resources(), description="What each job requests.")
    ssh_key: SecretKey | None = Field(None, description="Kubernetes Secret with the private key, for pods.")
    capacity: int | None = Field(
        None, ge=1, le=10**6, description="Jobs of this stage that may be there at once; default: no limit."
    )
    poll: int = Field(30, ge=1, le=3600, description="Seconds between two checks of the queue.")

    @model_validator(mode="after")
    def _pods_know_no_hosts(self) -> Hpc:
        if self.ssh_key and not self.machine.remote_profile.host_key:
            raise ValueError(
                "machine.remote_profile.host_key: required, since a pod has no known_hosts; give the key that "
                "`ssh-keyscan HOST` prints (compare it with what the centre publishes)"
            )
        return self
