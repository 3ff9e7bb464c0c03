#!/usr/bin/env bash
# A one-node Ceph with its S3 gateway, on loopback, out of Debian packages that are unpacked into a folder and not
# installed.
#   ceph-rgw.sh get ROOT                       download and unpack (the newest that apt knows); again: nothing
#   ceph-rgw.sh run ROOT DATA PORT MON1 MON2   serve in DATA, emptied first, until TERM; user from CEPH_ACCESS, CEPH_SECRET
set -euo pipefail
command=$1 root=$2

get() {
  [ -e "$root/.complete" ] && return
  rm -rf "$root"
  mkdir -p "$root/debs"
  cd "$root/debs"
  packages=$(apt-get -s --no-install-recommends install radosgw ceph-mon ceph-osd ceph-common | awk '/^Inst/ {print $2}')
  # shellcheck disable=SC2086 # a list of names
  apt-get -qq download $packages
  for deb in *.deb; do dpkg -x "$deb" "$root"; done
  cd "$root"
  rm -rf "$root/debs"
  touch "$root/.complete"
}

settings() {
  cat <<END
[global]
fsid=$(cat /proc/sys/kernel/random/uuid)
mon host=[v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon1]
auth cluster required=none
auth service required=none
auth client required=none
auth allow insecure global id reclaim=true
osd pool default size=1
osd pool default min size=1
osd pool default pg num=1
osd pool default pgp num=1
osd pool default pg autoscale mode=off
osd crush chooseleaf type=0
mon max pg per osd=1000
mon allow pool size one=true
mon data avail crit=1
run dir=$data/run
log file=$data/log/\$name.log
admin socket=$data/run/\$name.asok
pid file=$data/run/\$name.pid
plugin dir=$libraries/ceph
erasure code dir=$libraries/ceph/erasure-code
osd class dir=$libraries/rados-classes
ms bind ipv4=true
public addr=127.0.0.1
cluster addr=127.0.0.1
keyring=$data/keyring
setuser match path=
[mon.a]
mon data=$data/mon
[osd.0]
osd data=$data/osd
osd objectstore=bluestore
bluestore block create=true
bluestore block size=8589934592
bluestore fsck on mount=false
osd memory target=939524096
END
}

run() {
  data=$1 port=$2 mon1=$3 mon2=$4
  libraries=$root/usr/lib/$(uname -m)-linux-gnu
  export PATH=$root/usr/bin:$root/usr/sbin:$PATH PYTHONPATH=$root/usr/lib/python3/dist-packages
  LD_LIBRARY_PATH=$libraries:$libraries/ceph:$root/lib/$(uname -m)-linux-gnu:$root/usr/lib/ceph
  export LD_LIBRARY_PATH
  export CEPH_CONF=$data/ceph.conf
  rm -rf "$data"
  mkdir -p "$data"/{mon,osd,rgw,run,log}
  settings >"$CEPH_CONF"
  fsid=$(sed -n 's/^fsid=//p' "$CEPH_CONF")
  ceph-authtool --create-keyring "$data/keyring" --gen-key -n mon. --cap mon 'allow *'
  ceph-authtool "$data/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *'
  monmaptool --create --clobber --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon2,v1:127.0.0.1:$mon1]" "$data/monmap"
  ceph-mon --mkfs -i a --monmap "$data/monmap" --keyring "$data/keyring"
  trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
  trap 'exit 0' TERM INT
  ceph-mon -f -i a &
  id=$(cat /proc/sys/kernel/random/uuid)
  ceph osd new "$id"
  ceph-osd -i 0 --mkfs --osd-uuid "$id" --no-mon-config
  ceph-osd -f -i 0 &
  ceph osd crush add osd.0 1 root=default host=one
  radosgw-admin user create --uid test --display-name test --access-key "$CEPH_ACCESS" --secret-key "$CEPH_SECRET"
  # Without keys the gateway must be told not to encrypt what it says to the monitor, or it waits for minutes.
  radosgw -f -n client.admin --rgw-frontends "beast endpoint=127.0.0.1:$port" --rgw-data "$data/rgw" \
    --log-file "$data/log/rgw.log" --no-mon-config --ms-mon-client-mode crc &
  wait -n
  echo "one of the daemons has ended" >&2
  exit 1
}

case $command in
  get) get ;;
  run) shift 2 && run "$@" ;;
  *) echo "get or run, not $command" >&2 && exit 2 ;;
esac
