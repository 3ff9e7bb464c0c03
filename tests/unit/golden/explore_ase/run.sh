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
setup_line='module load ase'
module load ase
setup_line=
set +e
for old in model_devi.out traj.lammpstrj end.json; do
  if [ -e "$old" ] || [ -h "$old" ]; then rm -rf "$old"; fi
done
python3 -u "$JOB_JOB/ase_md.py" md.json "$JOB_MODELS"
