#!/usr/bin/env bash
# The owner of the database; Postgres runs this once, on an empty folder. `brigade migrate` does the
# rest.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --set password="$(cat /etc/postgresql/tls/owner-password)" <<'SQL'
create role owner login createrole password :'password';
create database brigade owner owner;
SQL
