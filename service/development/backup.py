"""``just backup FILE`` and ``just restore FILE``, with PostgreSQL's own programs."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, NoReturn, cast

from service import __main__ as commands
from service.development import programs
from service.development.errors import EmbeddedError
from service.development.target import existing, for_restore

USAGE: Final = "usage: just backup FILE, or just restore [--overwrite] FILE"

# The lines of a script that psql reads from a pipe mean nothing to a person.
PREFIX: Final = re.compile(r"^psql:<stdin>:\d+: ", re.MULTILINE)

# Locks all tables, so that nobody writes between the check and the restore.
BEGIN: Final = """
begin;
set local lock_timeout = '20s';
set local client_min_messages = warning;
do $$
declare
    name regclass;
begin
    for name in
        select oid from pg_class
        where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
        order by oid
    loop
        execute format('lock table %s in access exclusive mode', name);
    end loop;
end $$;
"""

# The tables that are left out describe the other ones: `python -m service migrate` and the start write them.
REFUSE_DATA: Final = """
do $$
declare
    name regclass;
    has_rows boolean;
begin
    for name in
        select oid from pg_class
        where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p')
            and relname not in ('schema_files', 'signing_key')
        order by oid
    loop
        execute format('select exists (select from %s)', name) into has_rows;
        if has_rows then
            raise exception 'the table % holds data, which `just restore --overwrite FILE` would replace', name;
        end if;
    end loop;
end $$;
"""

# Not only what is in the backup: a newer release may have added tables that refer to the others. Objects of extensions
# stay.
DROP_ALL: Final = """
do $$
declare
    command text;
begin
    for command in
        select format('drop %s if exists %s cascade', case relkind when 'S' then 'sequence' when 'v' then 'view'
            when 'm' then 'materialized view' else 'table' end, oid::regclass)
        from pg_class
        where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S')
            and not exists (select from pg_depend where objid = pg_class.oid and deptype in ('e', 'i', 'a'))
        union all
        select format('drop routine if exists %s cascade', oid::regprocedure)
        from pg_proc
        where pronamespace = current_schema()::regnamespace
            and not exists (select from pg_depend where objid = pg_proc.oid and deptype = 'e')
        union all
        select format('drop type if exists %s cascade', oid::regtype)
        from pg_type
        where typnamespace = current_schema()::regnamespace and typtype in ('d', 'e')
            and not exists (select from pg_depend where objid = pg_type.oid and deptype = 'e')
    loop
        execute command;
    end loop;
end $$;
"""

# A backup has no statistics, without which plans are guesses.
COMMIT: Final = """
commit;
analyze;
"""


def main(arguments: list[str]) -> None:
    commands.handle_stop_signals(commands.exit_on_signal)
    # `just` runs in the directory of the justfile.
    invoked_in = Path(os.environ.get("INVOKED_IN", "."))
    try:
        match arguments:
            case ["backup", file] if not file.startswith("--"):
                backup(invoked_in / file)
            case ["restore", file] if not file.startswith("--"):
                restore(invoked_in / file, overwrite=False)
            case ["restore", "--overwrite", file] | ["restore", file, "--overwrite"]:
                restore(invoked_in / file, overwrite=True)
            case _:
                fail(USAGE)
    except EmbeddedError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def backup(file: Path) -> None:
    """Write a backup in pg_dump's custom format. An existing file is replaced when the new one is complete."""
    if not file.parent.is_dir():
        fail(f"{file.parent} is not a directory")
    with existing() as target, _replacement(file) as new:
        say(f"Database  {target.where}")
        # A container cannot write to the file. Given the file as its output, pg_dump would write the contents twice.
        options = [] if target.in_container else [f"--file={new.name}"]
        ended = subprocess.run(  # noqa: S603
            target.command("pg_dump", "--format=custom", *options),
            stdin=subprocess.DEVNULL,
            stdout=new,
            stderr=subprocess.PIPE,
            env=target.environment,
            check=False,
        )
        if ended.returncode:
            errors = programs.last_lines(ended.stderr.decode(errors="replace"))
            fail(f"There is no backup, pg_dump has failed:\n{errors}")
    say(f"Backup    {file}, {file.stat().st_size:,} bytes. It contains password hashes and e-mail addresses.")


@contextmanager
def _replacement(file: Path) -> Iterator[IO[bytes]]:
    """A file that replaces ``file`` at the end, and is deleted after a failure. Only its owner may read it."""
    with tempfile.NamedTemporaryFile(prefix=f".{file.name}.", dir=file.parent, delete=False) as new:
        try:
            yield new
            os.fsync(new.fileno())
            Path(new.name).replace(file)
        finally:
            Path(new.name).unlink(missing_ok=True)


def restore(file: Path, *, overwrite: bool) -> None:
    """Replace the content of the database by a backup, in one transaction."""
    with file.open("rb") as archive, for_restore() as target, tempfile.TemporaryFile("w+") as log:
        say(f"Database  {target.where}")
        read = target.command("pg_restore", "--no-owner", "--no-privileges", "--file=-", database=False)
        write = target.command(
            "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--file=-"
        )
        with (
            subprocess.Popen(read, stdin=archive, stdout=subprocess.PIPE, stderr=log) as reader,  # noqa: S603
            subprocess.Popen(  # noqa: S603
                write, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log, env=target.environment
            ) as writer,
        ):
            statements, script = cast("IO[bytes]", reader.stdout), cast("IO[bytes]", writer.stdin)
            with suppress(BrokenPipeError), script:  # psql has failed, and says why
                script.write((BEGIN + ("" if overwrite else REFUSE_DATA) + DROP_ALL).encode())
                shutil.copyfileobj(statements, script)
                # Without the commit, the end of the input rolls the transaction back.
                if not reader.wait():
                    script.write(COMMIT.encode())
            statements.close()
        if reader.returncode or writer.returncode:
            log.seek(0)
            errors = PREFIX.sub("", log.read())
            fail(f"Nothing is restored, and the database is unchanged:\n{programs.last_lines(errors)}")
    say(f"Restored  {file}")
    say("Next      `python -m service migrate` if the backup is of an older release; `just up` does that, too")


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the person at the terminal


def fail(message: str) -> NoReturn:
    raise SystemExit(message)


if __name__ == "__main__":
    main(sys.argv[1:])
