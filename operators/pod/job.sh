# The generic job wrapper (POSIX sh; besides it: mkdir cp mv rm chmod find awk sha256sum wc date).
# Runs in/run.sh in a copy of every in/task.*, moves the outputs that in/outputs names to out/, keeps log/,
# and writes the completion marker last. in/once.sh, if there is one, is run before the first task that has to be run.
# The environment names the places:
#   JOB_ID JOB_JOB (in/) JOB_PREVIOUS JOB_OUT JOB_LOG JOB_DONE, and JOB_* for what the app shares with its jobs.
# With JOB_TELL it also prints what its tasks print. A job of a batch system says in JOB_SUBMITTED since when it waited.
# Programs are what a short task costs: what the shell can do by itself, it does. statemachine/engine/job_runner.py is the
# same in Python; tests/contract/runner_contract.py holds both.
set -u
umask 022
LC_ALL=C
export LC_ALL
work=${JOB_OUT%/*}/work
mkdir -p "$work" "$JOB_OUT" "$JOB_LOG" "${JOB_DONE%/*}" && cd "$JOB_OUT" || exit 70
read -r digest <"$JOB_JOB/digest" || exit 70
start=$(date +%s)

# Also what a task has left read-only.
remove() {
  rm -rf "$@" 2>/dev/null || {
    chmod -R u+rwx "$@" 2>/dev/null
    rm -rf "$@"
  } || exit 70
}

# Is what the task recorded in that folder, as it was?
recorded() {
  [ -s "$dir.sums" ] || return 1
  while read -r _ name; do
    case $name in */[!A-Za-z0-9_]* | *[!A-Za-z0-9._+/-]*) return 1 ;; esac
    [ -f "$1/$name" ] && [ ! -h "$1/$name" ] || return 1
  done <"$dir.sums"
  (cd "$1" && exec sha256sum -c "$dir.sums") >/dev/null 2>&1
}

# A file or a folder: a link could lead anywhere, and who opens a fifo waits.
is_output() {
  [ ! -h "$1" ] && { [ -f "$1" ] || [ -d "$1" ]; }
}

# Copies what the task left in an earlier attempt: files and folders, as that is all that a store holds.
fetch() {
  cp -RP "$JOB_PREVIOUS/$task/." "$1" && find "$1" ! -type d ! -type f -exec rm -f {} +
}

# In a pod, which nobody can look into: print the task's log as it grows.
teller=
trap hush EXIT
hush() {
  [ -z "$teller" ] || { kill "$teller" && wait "$teller"; } 2>/dev/null
  teller=
}
tell() {
  echo "==> $task.log <=="
  : >"$JOB_LOG/$task.log"
  tail -c +1 -f "$JOB_LOG/$task.log" 2>/dev/null </dev/null &
  teller=$!
}

# A folder with the inputs, and with what an interrupted attempt left in this place. Else with what an earlier one could
# save (a checkpoint), here or where it was taken to; that is all there, or it does not count. Whatever stands in the
# way of an input goes.
prepare() {
  [ -z "$code" ] || { remove "$dir" && remove "$dir.code" "$dir.sums"; }
  if [ -d "$dir" ]; then
    [ -w "$dir" ] || chmod u+rwx "$dir"
    for file in "$task"/*; do
      ! is_output "$file" || { remove "$dir/${file##*/}" && mv "$file" "$dir/"; } || exit 70
    done
  elif [ -d "$task" ]; then
    mv "$task" "$dir" || exit 70
  elif [ -d "$JOB_PREVIOUS/$task" ]; then
    remove "$dir.new"
    fetch "$dir.new"
    mv "$dir.new" "$dir" || exit 70
  fi
  if [ -d "$dir" ]; then
    [ -w "$dir" ] || chmod u+rwx "$dir"
    set --
    for file in "$input"/* "$input"/.[!.]*; do
      place=$dir/${file##*/}
      [ -d "$file" ] && [ -d "$place" ] && [ ! -h "$place" ] || set -- "$@" "$place"
    done
    remove "$@"
  fi
  cp -R "$input/." "$dir" || exit 70
  [ -w "$dir" ] || chmod u+rwx "$dir" || exit 70
}

# What is no output counts as missing. Outputs can be read and moved on, whatever their modes were. Recorded is each file
# whose name the marker can hold; a name that no store can hold is not kept.
keep() {
  [ -w "$dir" ] || chmod u+rwx "$dir"
  set --
  names=plain
  while read -r need name; do
    file=$dir/$name
    if is_output "$file"; then
      [ -r "$file" ] && [ -w "$file" ] || chmod u+rwX "$file"
      [ ! -d "$file" ] || names=any
      case $name in [!A-Za-z0-9_]* | *[!A-Za-z0-9._+-]*) names=any ;; esac
      set -- "$@" "$file"
    elif [ "$need$code" = need0 ]; then
      echo "job wrapper: the command ended well but left no $name" >>"$JOB_LOG/$task.log"
      code=65
    fi
  done <"$JOB_JOB/outputs"
  [ ! -d "$task" ] || remove "$task"
  mkdir "$task" || exit 70
  [ $# = 0 ] || mv "$@" "$task/" || code=74
  set -- "$task"/*
  if [ "$names" = any ]; then
    find "$task" -name '*[!] -[^-~]*' -prune -exec rm -rf {} \; -o \
      \( \( -type d ! -perm -700 -o -type f ! -perm -400 \) -exec chmod u+rwX {} \; -o ! -type l \) \
      -type f ! -path '*/[!A-Za-z0-9_]*' ! -path '*[!A-Za-z0-9._+/-]*' -exec sha256sum {} +
  else
    [ ! -e "$1" ] || sha256sum "$@"
  fi >"$dir.sums" || exit 74
  echo "$code" >"$dir.code" || exit 74
}

all=0
begun=
tasks=
for input in "$JOB_JOB"/task.*; do
  task=${input##*/}
  dir=$work/$task
  code=
  [ ! -f "$dir.code" ] || read -r code <"$dir.code"
  # A task that an interrupted attempt finished in this place is not run again, as long as its outputs are what they
  # were, here or where they were taken to since.
  if [ "$code" = 0 ] && ! recorded "$JOB_OUT"; then
    remove "$task"
    recorded "$JOB_PREVIOUS" && fetch "$task" || code=1
  fi
  if [ "$code" != 0 ]; then
    if [ -z "$begun" ] && [ -f "$JOB_JOB/once.sh" ]; then
      (cd "$work" && exec sh "$JOB_JOB/once.sh") >"$JOB_LOG/job.log" 2>&1 </dev/null || {
        echo "job wrapper: once.sh failed, see log/job.log" >&2
        exit 70
      }
    fi
    begun=1
    prepare
    [ -z "${JOB_TELL:-}" ] || tell
    (cd "$dir" && exec sh "$JOB_JOB/run.sh") >"$JOB_LOG/$task.log" 2>&1 </dev/null
    code=$?
    hush
    keep
  fi
  [ "$code" = 0 ] || all=1
  tasks=$tasks${tasks:+,}"{\"id\":\"$task\",\"code\":$code}"
done

find . -type f ! -path './*/[!A-Za-z0-9_]*' ! -path '*[!A-Za-z0-9._+/-]*' -exec wc -c {} + >"$work/sizes" || exit 74
{
  echo used "$start" "$(date +%s)" "${JOB_SUBMITTED:-}"
  times
} >"$work/used" || exit 74
set --
for input in "$JOB_JOB"/task.*; do
  set -- "$@" "$work/${input##*/}.sums"
done
if {
  printf '{"schema_version":2,"job_id":"%s","inputs":"%s","tasks":[%s],"files":[' "$JOB_ID" "$digest" "$tasks" &&
    awk '
      length($1) == 64 { sum[$2] = $1; name[++n] = $2; next }
      $1 == "used" {
        used = sprintf("\"began\":%.0f,\"wall\":%.0f", $2, $3 > $2 ? $3 - $2 : 0)
        if ($4 != "") queued = sprintf(",\"queued\":%.0f", $2 > $4 ? $2 - $4 : 0)
        next
      }
      $1 ~ /m/ { split($0, time, "[ms ]+"); cpu += 60 * (time[1] + time[3]) + time[2] + time[4]; next }
      { size[substr($2, 3)] = $1 }
      END {
        for (gap = int(n / 2); gap > 0; gap = int(gap / 2))
          for (i = gap + 1; i <= n; i++) {
            held = name[i]
            for (j = i; j > gap && name[j - gap] > held; j -= gap) name[j] = name[j - gap]
            name[j] = held
          }
        for (i = 1; i <= n; i++) {
          if (!(name[i] in size)) exit 3
          printf "%s{\"name\":\"%s\",\"size\":%s,\"sha256\":\"%s\"}", sep, name[i], size[name[i]], sum[name[i]]
          sep = ","
        }
        printf "],\"used\":{%s,\"cpu\":%.3f%s}", used, cpu, queued
      }' "$@" "$work/used" "$work/sizes" && printf '}\n'
} >"$JOB_DONE.part"; then
  mv "$JOB_DONE.part" "$JOB_DONE" || exit 74
else
  # A file that a task recorded has gone since: whose it was, the next attempt finds by running all of them.
  [ $? != 3 ] || remove "$work"/task.*.code
  exit 74
fi
exit "$all"
