set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments
set dotenv-path := ".env"

python := ".venv/bin/python"
lock := "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate pyproject.toml"

# List the recipes.
default:
    @just --list --unsorted

# Serve on http://127.0.0.1:8000, with an embedded PostgreSQL unless DATABASE_URL is set. Ctrl-C stops both.
[no-exit-message]
up: environment
    @exec {{ python }} -m service.development

# Create a few users and posts in the service that `just up` or `just compose-up` runs.
[no-exit-message]
seed: environment
    @exec {{ python }} -m service.development.seed

# Run psql on the database of `just up` or `just compose-up`; arguments go to psql.
[no-exit-message]
psql *arguments: environment
    @exec {{ python }} -m service.development.psql "$@"

# Write a backup of the database of `just up`, `just compose-up` or DATABASE_URL to a file.
[no-exit-message]
backup *arguments: environment
    @INVOKED_IN={{ quote(invocation_directory()) }} exec {{ python }} -m service.development.backup backup "$@"

# Replace the database by a backup; one that holds data only with --overwrite.
[no-exit-message]
restore *arguments: environment
    @INVOKED_IN={{ quote(invocation_directory()) }} exec {{ python }} -m service.development.backup restore "$@"

# Run the tests; arguments go to pytest (`just test -m "not process"` takes half a minute). PostgreSQL: TEST_DATABASE_URL, else Docker, else embedded.
test *arguments: environment
    @{{ python }} -m pytest --numprocesses auto --dist worksteal "$@"

# Run schemathesis at length: more than 5,000 requests, with a new seed each time (about two minutes).
fuzz *arguments: environment
    @{{ python }} -m pytest tests/test_schemathesis.py --capture no --fuzz-examples 500 --fuzz-seed $RANDOM "$@"

# Run random histories of connections against a model (20 minutes); --help lists the options.
fuzz-connections *arguments: environment
    @{{ python }} -m tests.connections "$@"

# Walk at random over sessions, with two devices and a thief, against a model (ten minutes); --help lists the options.
fuzz-sessions *arguments: environment
    @{{ python }} -m tests.session_walk "$@"

# Compare the service with its peers (about 16 minutes; --quick: about three); --help lists the options.
bench *arguments: environment
    @{{ python }} -m tests.bench compare "$@"

# Measure reads of a post on 1 to 256 connections.
bench-concurrency *arguments: environment
    @{{ python }} -m tests.bench concurrency "$@"

# Measure the routes on a thousand posts and on a million, and print the plans.
bench-growth *arguments: environment
    @{{ python }} -m tests.bench growth "$@"

# Measure reads while 16 clients log in.
bench-storm *arguments: environment
    @{{ python }} -m tests.bench storm "$@"

# Compare one worker with two.
bench-workers *arguments: environment
    @{{ python }} -m tests.bench workers "$@"

# Measure resident memory during ten minutes of load on every route.
bench-soak *arguments: environment
    @{{ python }} -m tests.bench soak "$@"

# Inject faults of the database and of clients under load (about five minutes); arguments select faults.
faults *arguments: environment
    @{{ python }} -m tests.faults "$@"

# Check formatting, lint, types and SQL.
check: environment
    {{ python }} -m ruff format --check .
    {{ python }} -m ruff check .
    {{ python }} -m mypy
    {{ python }} -m tests.lint_sql

# Format the code, and write the settings into README.md and .env.example.
format: environment
    {{ python }} -m service.development.documents
    {{ python }} -m ruff format .
    {{ python }} -m ruff check --fix .

# Update the lock files to the newest versions that pyproject.toml allows.
lock:
    {{ lock }} --upgrade --group dev --extra otel --output-file requirements-dev.lock
    {{ lock }} --upgrade --constraint requirements-dev.lock --output-file requirements.lock
    {{ lock }} --upgrade --constraint requirements-dev.lock --extra otel --output-file requirements-otel.lock

# Build the image and run service and database in containers.
[no-exit-message]
compose-up:
    docker compose up --build --detach --wait

# Stop the containers and keep the data. `just compose-down -v` deletes them.
[no-exit-message]
compose-down *arguments:
    docker compose down "$@"


# Install the locked packages into .venv.
[no-exit-message]
[private]
environment:
    @[ -x {{ python }} ] || { echo "installing the locked packages into .venv" >&2; uv venv --quiet .venv; }
    @uv pip sync --quiet --require-hashes --python {{ python }} requirements-dev.lock
