#!/bin/sh
# Makes the secrets of a deployment beside this file, once: what nodes prove to each other, what
# callers of their JSON API send, and the password of the broker.
#
# The files can be read by everybody, because nodes do not run as the user who made them; the
# directory can be entered by nobody else, and the engine hands each file only to its services.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
for name in secret token mqtt-password; do
  [ -s "secrets/$name" ] && continue
  head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"secrets/$name"
  chmod 644 "secrets/$name"
done
echo "secrets are in $PWD/secrets; eightfold --endpoint needs $PWD/secrets/token"
