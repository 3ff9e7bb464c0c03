"""DPGEN2's keys of steps and of dflow, and what becomes of them; the documentation shows the tables."""

from __future__ import annotations

from ..report import lost, maps, unneeded
from ..source import Table

_PYTHON = "plan and reduce need little, and have the engine's image"

STEPS: Table = (
    unneeded("prep_train_config", _PYTHON),
    maps("run_train_config", "train"),
    unneeded("prep_explore_config", _PYTHON),
    maps("run_explore_config", "explore"),
    unneeded("prep_fp_config", _PYTHON),
    maps("run_fp_config", "label"),
    maps("select_confs_config", "select"),
    unneeded("collect_data_config", _PYTHON),
    unneeded("cl_step_config", _PYTHON),
)

STEP: Table = (
    maps("template_config", "{stage}.image, {stage}.retries"),
    maps("template_slice_config", "{stage}.group_size"),
    maps("continue_on_failed", ""),
    lost("continue_on_num_success", "`ratio_failed` of the stage says which fraction may fail"),
    maps("continue_on_success_ratio", "{stage}.ratio_failed"),
    maps("parallelism", "engine.parallelism", "the most of all steps"),
    maps("executor", "{stage}.hpc"),
)

TEMPLATE_CONFIG: Table = (
    maps("image", "{stage}.image"),
    maps("timeout", "{stage}.pod.hours"),
    maps("retry_on_transient_error", "{stage}.retries", "attempts in a row that finish no further job"),
    unneeded("timeout_as_transient_error", "what was stopped is tried again, as what failed"),
    maps("envs", "{stage}.pod.env, {stage}.setup"),
)

SLICES: Table = (
    maps("group_size", "{stage}.group_size"),
    lost("pool_size", "the tasks of a job run one after the other: take a smaller group_size"),
)

_SECRET = "a secret is not copied: log in with an SSH agent or a key file"

EXECUTOR: Table = (
    maps("type", "{stage}.hpc"),
    maps("host", "{stage}.hpc.machine.remote_profile.hostname"),
    maps("port", "{stage}.hpc.machine.remote_profile.port"),
    maps("username", "{stage}.hpc.machine.remote_profile.username"),
    lost("password", _SECRET),
    maps("private_key_file", "{stage}.hpc.machine.remote_profile.key_filename"),
    maps("remote_root", "{stage}.hpc.machine.remote_root"),
    maps("queue_name", "{stage}.hpc.resources.queue_name"),
    maps("machine_dict", "{stage}.hpc.machine"),
    maps("resources_dict", "{stage}.hpc.resources"),
    lost("task_dict", "what a job does is the run's"),
    unneeded("image_pull_policy", "jobs on a batch system have no image; `pod.pull_policy` is that of pods"),
    unneeded("retry_on_submission_error", "a submission that failed is repeated"),
    unneeded("clean", "what a job leaves there is removed when it has ended"),
    unneeded("merge_sliced_step", "group_size says how many tasks a job has"),
    *(
        unneeded(name, "no pod waits for a job with tools of its own")
        for name in ("image", "command", "remote_command", "map_tmp_dir", "docker_executable", "singularity_executable",
                     "podman_executable", "json_file")
    ),
)  # fmt: skip

DFLOW: Table = (
    maps("host", "engine.server"),
    maps("namespace", "engine.namespace"),
    lost("token", "a secret is not copied: set ARGO_TOKEN, or engine.token_file"),
    unneeded("k8s_api_server", "only the Argo server is asked"),
    unneeded("mode", "without a host jobs run on this machine"),
    *(
        lost(name, "access keys are not copied: a Secret named in engine.repository, or AWS' own settings here")
        for name in ("s3_access_key", "s3_secret_key")
    ),
    maps("s3_endpoint", "prefix"),
    maps("s3_bucket_name", "prefix"),
    maps("s3_prefix", "prefix"),
    maps("s3_secure", "prefix"),
    lost("s3_repo_key", "give engine.repository.config_map"),
    lost("s3_storage_client", "the store is S3 as Amazon has it"),
)

S3: Table = (
    maps("endpoint", "prefix"),
    maps("bucket_name", "prefix"),
    maps("prefix", "prefix"),
    maps("secure", "prefix"),
    lost("access_key", "access keys are not copied: a Secret named in engine.repository, or AWS' own settings here"),
    lost("secret_key", "access keys are not copied: a Secret named in engine.repository, or AWS' own settings here"),
    lost("repo_key", "give engine.repository.config_map"),
    lost("storage_client", "the store is S3 as Amazon has it"),
)

BOHRIUM: Table = (
    lost("username", "there is no Bohrium"),
    lost("password", "there is no Bohrium, and no secret is copied"),
    lost("ticket", "there is no Bohrium, and no secret is copied"),
    lost("project_id", "there is no Bohrium"),
    unneeded("host", "there is no Bohrium"),
    unneeded("k8s_api_server", "there is no Bohrium"),
    unneeded("repo_key", "there is no Bohrium"),
    unneeded("storage_client", "there is no Bohrium"),
)
