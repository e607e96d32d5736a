set shell := ["bash", "-euo", "pipefail", "-c"]
set positional-arguments

python := ".venv/bin/python"
lock := "uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate pyproject.toml"

# List the recipes.
default:
    @just --list --unsorted

# Serve on http://127.0.0.1:8000; on an embedded PostgreSQL unless DATABASE_URL is set. Ctrl-C stops all of it.
up: environment
    @exec {{ python }} -m service.development

# Run the tests; arguments go to pytest. PostgreSQL: TEST_DATABASE_URL, else Docker, else embedded.
test *arguments: environment
    @{{ python }} -m pytest --numprocesses auto --maxprocesses 4 "$@"

# schemathesis at length: more than 5,000 requests, other ones each time (about two minutes).
fuzz *arguments: environment
    @{{ python }} -m pytest tests/test_schemathesis.py --capture no --fuzz-examples 500 --fuzz-seed $RANDOM "$@"

# Random histories of connections against a model (20 minutes); --help lists the options.
fuzz-connections *arguments: environment
    @{{ python }} -m tests.connections "$@"

# The service against its peers (about ten minutes; --quick: under two); --help lists the options.
bench *arguments: environment
    @{{ python }} -m tests.bench compare "$@"

# Reads of a post from 1 to 256 connections.
bench-concurrency *arguments: environment
    @{{ python }} -m tests.bench concurrency "$@"

# A thousand posts against a million, and the plans.
bench-growth *arguments: environment
    @{{ python }} -m tests.bench growth "$@"

# Reads while 16 clients log in.
bench-storm *arguments: environment
    @{{ python }} -m tests.bench storm "$@"

# One worker against two.
bench-workers *arguments: environment
    @{{ python }} -m tests.bench workers "$@"

# Ten minutes of every route; resident memory.
bench-soak *arguments: environment
    @{{ python }} -m tests.bench soak "$@"

# The service under load while what is around it fails (about five minutes); arguments name the faults.
faults *arguments: environment
    @{{ python }} -m tests.faults "$@"

# Formatting, lint, types, SQL lint.
check: environment
    {{ python }} -m ruff format --check .
    {{ python }} -m ruff check .
    {{ python }} -m mypy
    {{ python }} -m tests.lint_sql

# Format the code.
format: environment
    {{ python }} -m ruff format .
    {{ python }} -m ruff check --fix .

# Bring both lock files to the newest versions that pyproject.toml allows.
lock:
    {{ lock }} --upgrade --group dev --output-file requirements-dev.lock
    {{ lock }} --upgrade --constraint requirements-dev.lock --output-file requirements.lock

# Build the image and run service and database in containers.
compose-up:
    docker compose up --build --detach --wait

# Stop the containers; the data stay. `just compose-down -v` drops them.
compose-down *arguments:
    docker compose down "$@"

# A shell on the database of compose-up.
psql *arguments:
    docker compose exec db psql -U app_user -d app_db "$@"

# The locked packages in .venv.
[private]
environment:
    @[ -x {{ python }} ] || { echo "installing the locked packages into .venv" >&2; uv venv --quiet .venv; }
    @uv pip sync --quiet --require-hashes --python {{ python }} requirements-dev.lock
