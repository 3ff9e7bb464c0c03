if [ "${1:-}" != bash ]; then
  command -v bash >/dev/null || {
    echo "error: the setup line was not run: shell is bash, and there is no bash here"
    exit 78
  }
  exec bash "$0" bash
fi
shift
setup_ended() {
  code=$?
  [ -n "$setup_line" ] || return
  printf "error: the setup line '%s' ended with exit code %s\n" "$setup_line" "$code"
  exit 78
}
setup_line=
trap setup_ended EXIT
command -v module >/dev/null || for file in "${MODULESHOME:-}"/init/bash /etc/profile.d/*mod*.sh; do
  # shellcheck disable=SC1090
  [ ! -r "$file" ] || . "$file"
done
set -e
setup_line='module load dp'
module load dp
setup_line=
set +e
export DP_COMMAND='srun dp'
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-$OMP_NUM_THREADS}"
export DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}"
dp=$(command -v "$DP_COMMAND")
DP_HERE=
case $dp in */dp) [ ! -x "${dp%/*}/python3" ] || DP_HERE=${dp%/*}/python3 ;; esac
export DP_HERE
exec "${DP_HERE:-python3}" "$JOB_JOB/dp_model.py"
