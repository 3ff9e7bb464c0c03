#!/bin/sh
# Prints the quick start's Secrets with random throw-away values: sh secrets.sh | kubectl apply -f -
# Running it again makes others: then delete the Job `bucket` and apply the overlay again.
set -eu
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
secret() {
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: dpgen2\n' "$1"
  printf '  annotations: {dpgen2-sm/values: throw-away}\nstringData:\n'
  shift
  for key; do printf '  %s: "%s"\n' "$key" "$(random)"; done
}
secret minio user password
secret dpgen2-sm AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
secret dpgen2-jobs accesskey secretkey
secret dpgen2-hook key
