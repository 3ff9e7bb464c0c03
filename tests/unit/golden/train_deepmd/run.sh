set -e
module load dp
export DP_COMMAND='srun dp'
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
export DP_INTRA_OP_PARALLELISM_THREADS="${DP_INTRA_OP_PARALLELISM_THREADS:-$OMP_NUM_THREADS}"
export DP_INTER_OP_PARALLELISM_THREADS="${DP_INTER_OP_PARALLELISM_THREADS:-1}"
dp=$(command -v "$DP_COMMAND" || true)
DP_HERE=
case $dp in */dp) [ ! -x "${dp%/*}/python3" ] || DP_HERE=${dp%/*}/python3 ;; esac
export DP_HERE
exec "${DP_HERE:-python3}" "$JOB_JOB/dp_model.py"
