set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

python := ".venv/bin/python"
lock := "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate pyproject.toml"

# List the recipes.
default:
    @just --list --unsorted

# Serve on http://127.0.0.1:8000, with an embedded PostgreSQL unless DATABASE_URL is set. Ctrl-C stops both.
up: environment
    @exec {{ python }} -m service.development

# Run the tests; arguments go to pytest (`just test -m "not process"` takes under 30 s). PostgreSQL: TEST_DATABASE_URL, else Docker, else embedded.
test *arguments: environment
    @{{ python }} -m pytest --numprocesses 4 --dist worksteal "$@"

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

# Format the code.
format: environment
    {{ python }} -m ruff format .
    {{ python }} -m ruff check --fix .

# Update both lock files to the newest versions that pyproject.toml allows.
lock:
    {{ lock }} --upgrade --group dev --output-file requirements-dev.lock
    {{ lock }} --upgrade --constraint requirements-dev.lock --output-file requirements.lock

# Build the image and run service and database in containers.
compose-up:
    docker compose up --build --detach --wait

# Stop the containers and keep the data. `just compose-down -v` deletes them.
compose-down *arguments:
    docker compose down "$@"

# Run psql on the database of compose-up.
psql *arguments:
    docker compose exec db psql -U app_user -d app_db "$@"

# Install the locked packages into .venv.
[private]
environment:
    @[ -x {{ python }} ] || { echo "installing the locked packages into .venv" >&2; uv venv --quiet .venv; }
    @uv pip sync --quiet --require-hashes --python {{ python }} requirements-dev.lock
