# The commands people type; each calls cargo or brigade.

# Lists the recipes
default:
    @just --list

# The story on real servers, from nothing to nothing
[group('see')]
demo:
    cargo run -- demo

# A stack that stays, with all workers in one process
[group('see')]
up *ARGS:
    cargo run -- up {{ARGS}}

# How far from the limit: each path beside a raw ceiling, under 3 minutes
[group('see')]
bench *ARGS:
    cargo run --release -- bench --short {{ARGS}}

# Everything breaks at random under load, and what was lost is counted
[group('check')]
chaos *ARGS:
    cargo run -- chaos {{ARGS}}

# The run of docs/proof.md: five seeds of 20 minutes with all faults, two of them on a cluster
[group('check')]
proof:
    for seed in 1 2 3; do cargo run -- chaos --minutes 20 --seed $seed || exit 1; done
    for seed in 4 5; do cargo run -- chaos --minutes 20 --seed $seed --cluster || exit 1; done

# Everything that has to hold
[group('check')]
test:
    cargo test

# The release before beside the present one; it is built at the first time
[group('check')]
upgrade:
    .ci/previous

# Format and lints as CI has them
[group('check')]
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Looks for bytes that break a decoder, and keeps what reaches new code
[group('check')]
fuzz SECONDS="600" *TARGETS:
    FUZZ_KEEP=1 .ci/fuzz {{SECONDS}} {{TARGETS}}

# Writes nats/permissions and nats/accounts.conf from the table in contracts
[group('write')]
permissions:
    cargo test -p brigade-contracts --lib -- --ignored write_permission_files

# Writes down a commit as the release before, with what has to stay for it
[group('write')]
previous COMMIT:
    git rev-parse --verify "{{COMMIT}}^{commit}" > tests/upgrade/commit
    .ci/previous write_down_the_release_before -- --ignored

# Checks the queries against a database that has the schema, and writes .sqlx
[group('write')]
sqlx DATABASE_URL:
    SQLX_OFFLINE=false cargo sqlx prepare --workspace --database-url {{DATABASE_URL}} -- --all-targets
