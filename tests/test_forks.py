"""The processes that tests start."""

import json

from tests.processes import Start, read_output


async def test_a_fork_gets_what_a_new_interpreter_gets(start: Start, start_python: Start) -> None:
    processes = [await run("tests.own_process", "one", "--two", NAME="value") for run in (start, start_python)]
    fork, interpreter = [json.loads(await read_output(process)) for process in processes]

    assert len(fork.pop("files")) == 4  # its three streams, and the directory that it lists
    del interpreter["files"]  # with uvloop also those of other processes
    assert fork == interpreter


async def test_a_worker_of_a_fork_gets_what_a_new_interpreter_gets(start: Start, start_python: Start) -> None:
    processes = [await run("tests.own_process", "worker", NAME="value") for run in (start, start_python)]
    fork, interpreter = [json.loads(await read_output(process)) for process in processes]

    assert len(fork.pop("files")) == len(interpreter.pop("files"))
    del fork["flags"], interpreter["flags"]  # the mode of UTF-8 depends on the locale, which Python passes on
    assert fork == interpreter
