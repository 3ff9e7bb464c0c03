# The generic job wrapper (POSIX sh; besides it: mkdir cp mv rm find awk sha256sum wc).
# Runs in/run.sh in a copy of every in/task.*, moves the outputs that in/outputs names to out/, keeps log/,
# and writes the completion marker last. The environment names the places:
#   JOB_ID JOB_JOB (in/) JOB_PREVIOUS JOB_OUT JOB_LOG JOB_DONE, and JOB_* for what the app shares with its jobs.
set -u
umask 022
LC_ALL=C
export LC_ALL
work=${JOB_OUT%/*}/work
mkdir -p "$work" "$JOB_OUT" "$JOB_LOG" "${JOB_DONE%/*}" || exit 70
read -r digest <"$JOB_JOB/digest" || exit 70
unchanged() {
  (cd "$1" && sha256sum -c "$dir.sums") >/dev/null 2>&1
}
all=0
tasks=
for input in "$JOB_JOB"/task.*; do
  task=${input##*/}
  dir=$work/$task
  code=
  [ ! -f "$dir.code" ] || read -r code <"$dir.code"
  # A task that an interrupted attempt finished in this place is not run again, as long as its outputs are what they
  # were, here or where they were taken to since.
  if [ "$code" = 0 ] && ! unchanged "$JOB_OUT"; then
    rm -rf "${JOB_OUT:?}/$task"
    unchanged "$JOB_PREVIOUS" && cp -R "$JOB_PREVIOUS/$task" "$JOB_OUT/" || code=1
  fi
  if [ "$code" != 0 ]; then
    [ -z "$code" ] || rm -rf "$dir" "$dir.code" "$dir.sums"
    if [ ! -d "$dir" ]; then
      mkdir "$dir" || exit 70
      # What an earlier attempt could save (a checkpoint) comes first, the inputs over it.
      [ ! -d "$JOB_PREVIOUS/$task" ] || cp -R "$JOB_PREVIOUS/$task/." "$dir/"
    fi
    cp -R "$input/." "$dir/" || exit 70
    (cd "$dir" && exec sh "$JOB_JOB/run.sh") >"$JOB_LOG/$task.log" 2>&1 </dev/null
    code=$?
    rm -rf "${JOB_OUT:?}/$task"
    mkdir "$JOB_OUT/$task" || exit 70
    while read -r need name; do
      if [ -e "$dir/$name" ] && [ ! -h "$dir/$name" ]; then
        mv "$dir/$name" "$JOB_OUT/$task/" || code=74
      elif [ "$need$code" = need0 ]; then
        echo "job wrapper: the command ended well but left no $name" >>"$JOB_LOG/$task.log"
        code=65
      fi
    done <"$JOB_JOB/outputs"
    (cd "$JOB_OUT" && find "$task" -type f -exec sha256sum {} +) >"$dir.sums" || exit 74
    echo "$code" >"$dir.code"
  fi
  [ "$code" = 0 ] || all=1
  tasks=$tasks${tasks:+,}"{\"id\":\"$task\",\"code\":$code}"
done
cd "$JOB_OUT" || exit 70
find . -type f -exec sha256sum {} + -exec wc -c {} + >"$work/files" || exit 74
files=$(awk '
  length($1) == 64 { sum[$2] = $1; next }
  $2 in sum { printf "%s{\"name\":\"%s\",\"size\":%s,\"sha256\":\"%s\"}", sep, substr($2, 3), $1, sum[$2]; sep = "," }' "$work/files") || exit 74
printf '{"schema_version":1,"job_id":"%s","inputs":"%s","tasks":[%s],"files":[%s]}\n' \
  "$JOB_ID" "$digest" "$tasks" "$files" >"$JOB_DONE.part" && mv "$JOB_DONE.part" "$JOB_DONE" || exit 74
exit "$all"
