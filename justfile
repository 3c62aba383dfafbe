# `just verify` only looks; `just fix` changes files. CI runs the same recipes (.ci/run).

default:
    @just --list

# Everything that must hold before a change lands.
verify: fmt-check clippy test doc schema deny

# Formats and applies what clippy can apply.
fix:
    cargo fmt --all
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# Formatting, without changing it.
fmt-check:
    cargo fmt --all --check

# Lints; a warning fails.
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# One process per test where cargo-nextest is there: each executor locks memory of its own.
test *args:
    #!/usr/bin/env bash
    set -euo pipefail
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace {{ args }}
        cargo test --workspace --doc
    else
        cargo test --workspace {{ args }}
    fi

# API documentation; a broken link fails.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The generated code must be what the schemas give (flatc 25.12.19).
schema:
    ./net/schema/generate.sh --check

# Licences and sources of all dependencies.
deny:
    #!/usr/bin/env bash
    set -euo pipefail
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny check licenses bans sources
    else
        echo "deny: skipped, cargo-deny is not installed"
    fi

# The binary that the fault tests and measurements start.
release:
    cargo build --release -p equeue

# kill -9 at random moments, under load, with the oracle.
kill-loop rounds="20": release
    cargo run --release -p equeue-torture -- kill --rounds {{ rounds }}

# Power cuts of the file system and of the device under the broker; needs root and loop devices. About 2 s a round.
powercut rounds="500": release
    cargo run --release -p equeue-torture -- powercut --fs ext4 --rounds {{ rounds }}
    cargo run --release -p equeue-torture -- powercut --fs xfs --rounds {{ rounds }}

# The null control: without syncs the same test must find losses.
powercut-null rounds="5": release
    cargo run --release -p equeue-torture -- powercut --fs ext4 --hazard no-sync --expect-loss --rounds {{ rounds }}

# A disk that runs full under load, and is given space again.
diskfull rounds="3": release
    cargo run --release -p equeue-torture -- diskfull --rounds {{ rounds }}

# Members of groups that join, leave, die and pause, and brokers that restart, with the oracle.
churn seconds="600" rate="50000": release
    cargo run --release -p equeue-torture -- churn --seconds {{ seconds }} --rate {{ rate }}

# Of so many messages one in a hundred fails, while members and brokers are killed: each is handled or a dead letter.
retries messages="100000": release
    cargo run --release -p equeue-torture -- churn --faults kills --messages {{ messages }} --rate 5000 --seconds 20

# Members join and leave and brokers restart: the group that keeps the order keeps it, key by key.
order seconds="120" rate="20000": release
    cargo run --release -p equeue-torture -- churn --faults orderly --seconds {{ seconds }} --rate {{ rate }}

# The standard measurements; each starts a broker of its own.
bench: release
    target/release/equeue bench storage
    target/release/equeue bench produce
    target/release/equeue bench both --verify
    target/release/equeue bench latency

# Every goal of docs/performance.md, as a table of medians; a quiet machine is wanted.
bench-goals runs="5" *cases: release
    bench/goals/run {{ runs }} {{ cases }}

# Work per message (instructions, system calls, bytes written, allocations) against bench/check/baseline.json.
bench-check *args: release
    cargo build --release -p equeue-bench --example work
    bench/check/run {{ args }}

# Beside NATS JetStream, in one run on this machine.
bench-peers rounds="3": release
    cargo build --release --manifest-path bench/peers/Cargo.toml
    bench/peers/run {{ rounds }}

# Fuzzes one target of a crate (record, net, storage) for some seconds; needs cargo-fuzz. The stable toolchain will do.
fuzz crate target seconds="60":
    cd {{ crate }} && cargo fuzz run --sanitizer none --target-dir ../target/fuzz {{ target }} -- -max_total_time={{ seconds }}

# Any sequence of operations on a log gives what it gives on a Vec.
model cases="2000":
    EQUEUE_MODEL_CASES={{ cases }} cargo test -p equeue-storage --test model -- --nocapture

# The log alone beside fio, on the same file system.
bench-storage dir="target": release
    .ci/bench-storage target/release/equeue {{ dir }}
