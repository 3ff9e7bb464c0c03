"""Where workflows run: the `engine:` and `pod:` parts of a configuration.

No field here holds a secret. Credentials are named (a Kubernetes Secret and its key, a token file), never written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from . import __version__
from .documents import Strict
from .endpoint import check_endpoint
from .forms import IDENTIFIER, form
from .secrets import looks_like_key


def no_template(text: str) -> str:
    """Argo would expand `{{...}}`: refuse it in everything that reaches a manifest."""
    if "{{" in text or "\0" in text:
        raise ValueError("must not contain '{{' or a NUL character")
    return text


def plain_json(value: dict[str, Any]) -> dict[str, Any]:
    """Passed on unchanged: only JSON values (YAML also has dates, sets and NaN), without templates."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            "only strings, finite numbers, true, false, null, lists and mappings; put dates in quotes"
        ) from None
    no_template(text.replace("\\u0000", "\0"))
    return value


def refuse_secret_names(field: str, names: Iterable[str], instead: str) -> None:
    """Raise `ValueError` for a variable whose name suggests that its value is a secret."""
    for name in names:
        if looks_like_key(name):
            raise ValueError(
                f"{field}: {name} looks like a secret, and a configuration is copied to the store; {instead}"
            )


def _gpus(value: Any) -> Any:
    """As CUDA names them: the first so many, or a list of numbers and names."""
    if type(value) is int and 0 <= value <= 64:
        return [str(number) for number in range(value)]
    if isinstance(value, list):
        return [str(gpu) if type(gpu) is int else gpu for gpu in value]
    raise ValueError("how many GPUs, or a list of them: 2, [0, 1]")


_QUANTITY = form(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$", "a number with a unit of Kubernetes: 8Gi, 500M, 0.5")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = form(
    rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL}$", "a label's key of Kubernetes: team, example.org/team"
)
_LABEL_VALUE = form(
    rf"^({_LABEL})?$", "a label's value of Kubernetes, up to 63 letters, digits, '.', '_', '-': materials"
)
_KUBERNETES_NAME = form(
    r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", "a name of Kubernetes, lower-case letters, digits, '.', '-': store-key"
)
_KEY = form(r"^[A-Za-z0-9._-]+$", "letters, digits, '.', '_', '-': access_key")
_GPU = form(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", "a resource of Kubernetes with its domain: nvidia.com/gpu")
_GPU_NAME = form(
    r"^([0-9]{1,3}|(GPU|MIG)-[A-Za-z0-9/-]+)$",
    "a GPU's number, or its name as `nvidia-smi -L` prints it: GPU-5c1e8a2f-...",
)
_IMAGE = form(r"^\S+$", "an image's name without spaces: ghcr.io/example/cp2k:2024.1")

Text = Annotated[str, AfterValidator(no_template)]
PlainJson = Annotated[dict[str, Any], AfterValidator(plain_json)]
Endpoint = Annotated[str, AfterValidator(check_endpoint)]
Image = Annotated[Text, Field(pattern=_IMAGE)]
Quantity = Annotated[str, Field(pattern=_QUANTITY)]
KubernetesName = Annotated[str, Field(pattern=_KUBERNETES_NAME)]
LabelKey = Annotated[str, Field(pattern=_LABEL_KEY)]
LabelValue = Annotated[str, Field(pattern=_LABEL_VALUE)]
Gpu = Annotated[str, Field(pattern=_GPU_NAME)]
Gpus = Annotated[list[Gpu], BeforeValidator(_gpus), WithJsonSchema({"type": ["integer", "array"]})]
EnvName = Annotated[str, Field(pattern=IDENTIFIER)]


class SecretKey(Strict):
    """A value in a Kubernetes Secret of the workflows' namespace."""

    name: KubernetesName = Field(description="Name of the Secret.")
    key: Annotated[str, Field(pattern=_KEY)] = Field(description="Key in the Secret.")


class Toleration(Strict):
    """A Kubernetes toleration, in Kubernetes' words."""

    key: Text | None = Field(None, description="Key of the taint; none: of every taint.")
    operator: Literal["Exists", "Equal"] = Field("Equal", description="How the taint's value is compared.")
    value: Text | None = Field(None, description="Value of the taint, for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; none: every effect."
    )
    tolerationSeconds: int | None = Field(None, ge=0, description="How long a taint NoExecute is borne; none: always.")


class Pod(Strict):
    """What pods ask of Kubernetes. The embedded engine has no pods and ignores it."""

    cpu: float | None = Field(None, gt=0, le=4096, description="Cores: request and limit.")
    memory: Quantity | None = Field(None, description="Memory: request and limit, such as `8Gi`.")
    gpu: int = Field(0, ge=0, le=64, description="GPUs.")
    gpu_resource: Annotated[str, Field(pattern=_GPU)] = Field(
        "nvidia.com/gpu", description="What the cluster calls its GPUs."
    )
    scratch: Quantity | None = Field(None, description="Maximum size of the pod's working folder, such as `20Gi`.")
    node_selector: dict[LabelKey, LabelValue] = Field({}, description="Labels that a node must have.")
    tolerations: list[Toleration] = Field([], description="Taints of nodes that are no hindrance.")
    env: dict[EnvName, Text] = Field({}, description="Environment variables. No secrets here.")
    secrets: dict[EnvName, SecretKey] = Field({}, description="Environment variables from Kubernetes Secrets.")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="imagePullPolicy.")
    hours: float | None = Field(None, gt=0, le=10**5, description="A pod that runs longer is stopped.")
    patch: PlainJson = Field({}, description="Anything else, merged into the pod's spec (Argo's podSpecPatch).")

    @model_validator(mode="after")
    def _no_secrets(self) -> Pod:
        refuse_secret_names("env", self.env, "put it into a Kubernetes Secret and name that in `secrets`")
        return self


class Credentials(Strict):
    """A Secret that holds an access key for the store."""

    access_key: SecretKey = Field(description="Where the access key's name is (AWS_ACCESS_KEY_ID).")
    secret_key: SecretKey = Field(description="Where the secret is (AWS_SECRET_ACCESS_KEY).")


class Repository(Strict):
    """How pods reach the store.

    With `config_map`, Argo looks the artifact repository up there; otherwise it is told endpoint and bucket. Without
    `credentials` pods use what their service account gives them (IRSA, workload identity).
    """

    config_map: KubernetesName | None = Field(None, description="ConfigMap of an artifactRepositoryRef.")
    key: Annotated[str, Field(pattern=_KEY)] | None = Field(None, description="Its key.")
    endpoint: Endpoint | None = Field(None, description="The store as pods see it; default: as the prefix says.")
    credentials: Credentials | None = Field(None, description="Where pods find an access key.")
    ca: SecretKey | None = Field(
        None, description="Secret with the CA certificates (PEM) that verify the store, where its authority is private."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Repository:
        if self.key and not self.config_map:
            raise ValueError("key: it is a key of config_map, which is not given")
        return self


class Hook(Strict):
    """The daemon's hook, called when a workflow ends: see `dpgen2-sm daemon --listen`."""

    url: Endpoint = Field(description="URL of the daemon's /hook as pods see it: http://dpgen2-sm.dpgen2:8080/hook")
    key: SecretKey = Field(description="Secret with the daemon's DPGEN2_HOOK_KEY.")


class LocalConfig(Strict):
    """Workflows run on this machine, with no cluster."""

    type: Literal["local"] = "local"
    slots: int | None = Field(None, ge=1, le=10**4, description="Jobs at once on this machine; default: its cores.")
    gpus: Gpus = Field(
        [],
        description="GPUs for train and explore jobs, one each: how many, or which ([0, 2]). One that is listed twice "
        "has two jobs at once. Without it jobs see all.",
    )


class ArgoConfig(Strict):
    """Workflows run on Kubernetes, through an Argo server.

    Its bearer token comes from `token_file`, which is read for each request, or from ARGO_TOKEN.
    """

    type: Literal["argo"]
    server: Endpoint | None = Field(None, description="https://host:port of the Argo server; default: ARGO_SERVER.")
    namespace: KubernetesName | None = Field(None, description="Default: ARGO_NAMESPACE, or `argo`.")
    ca_file: str | None = Field(None, description="CA certificates to verify the server with; default: the system's.")
    token_file: str | None = Field(None, description="File with the bearer token; default: ARGO_TOKEN.")
    timeout: float = Field(30.0, gt=0, le=3600, description="Seconds to wait for a response.")
    service_account: KubernetesName | None = Field(None, description="Service account of the workflows' pods.")
    image: Image = Field(
        f"dpgen2-sm:{__version__}", description="Image of the Python operators; jobs without one use it too."
    )
    pod: Pod = Field(Pod(), description="Pods of the Python operators: guard, plan, reduce.")
    pod_security: Literal["baseline", "restricted"] = Field(
        "baseline",
        description="The Pod Security Standard that the pods meet. For `restricted` every container runs as user 8737 "
        "(another one by `pod.patch`), not as the user of its image.",
    )
    parallelism: int | None = Field(None, ge=1, le=10**5, description="Pods of a workflow at once.")
    hours: float | None = Field(None, gt=0, le=10**5, description="A workflow that runs longer is stopped.")
    labels: dict[LabelKey, LabelValue] = Field({}, description="Labels of the workflows.")
    repository: Repository = Field(Repository(), description="How pods reach the store.")
    hook: Hook | None = Field(None, description="The daemon that a workflow wakes when it ends.")


def _type(value: Any) -> str:
    return str(value.get("type", "local")) if isinstance(value, dict) else str(getattr(value, "type", "local"))


EngineConfig = Annotated[
    Annotated[LocalConfig, Tag("local")] | Annotated[ArgoConfig, Tag("argo")],
    Discriminator(_type, custom_error_type="engine_type", custom_error_message="type: 'local' or 'argo' is expected"),
]


def engine_config(settings: Any) -> LocalConfig | ArgoConfig:
    """The settings of a stored configuration; only the needed model is built, so that `status` starts quickly."""
    return (ArgoConfig if _type(settings) == "argo" else LocalConfig).model_validate(settings)
